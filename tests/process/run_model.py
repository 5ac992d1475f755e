"""`run_model.py PROJECT CONFIG INPUT [--hold]`: one prediction by the process host, the response as JSON on stdout.

The values of INPUT, a JSON object, that start with @ are files. Output files are written to the folder that it is
started in. With --hold the model is kept, "ready PID" printed, and nothing is asked of it.
"""
from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import cogpredict


def predict(project: str, file: str, text: str, hold: bool) -> None:
    console, loop, home = cogpredict.Console(os.environ), cogpredict.Loop(), os.path.expanduser("~")
    cogpredict.catch_signals(loop)
    try:
        config = cogpredict.read_config(os.path.join(os.path.abspath(project), file))
        settings = cogpredict.read_build_settings(config, os.environ, os.getcwd())
        console.warn(cogpredict.process_notice(config))
        environment = cogpredict.prepare_environment(config, settings, console, os.environ)
        run = cogpredict.make_run(cogpredict.pick_free_ports(int.from_bytes(os.urandom(2), "big")))
        plan = cogpredict.plan_process(cogpredict.Options(), config, environment, run, {"GIVEN": "by hand"},
                                       os.environ)
        result = cogpredict.plan_output("", as_json=True, schema=None, cwd=os.getcwd(), home=home)
        progress = cogpredict.Progress(console.log)
        with contextlib.ExitStack() as stack:
            store = cogpredict.OutputStore(result, console, "run")
            stack.enter_context(contextlib.closing(store))
            lane = cogpredict.Lane(
                run.token, run.ports.lane, on_upload=lambda *upload: store.open_upload(*upload),
                on_webhook=progress.hook,
                json_reader=lambda: cogpredict.HookReader(cogpredict.SpillReader(store.open_blob),
                                                           progress.logs))
            host = cogpredict.ProcessHost(plan, lane, loop, console)
            stack.callback(host.close)
            host.start()
            cogpredict.wait_for_setup(host, 60, console)
            logged = host.speaks_coglet
            if hold:
                print(f"ready {host.link.hello['spawned']}", flush=True)
                host.wait(lambda: host.gone, time.monotonic() + 60)
                raise cogpredict.ModelGone(host.ended())
            values = {name: lane.add_file(lambda path=value[1:]: open(path, "rb"),  # noqa: SIM115
                                          os.path.basename(value),
                                          os.path.getsize(value[1:]))
                      if isinstance(value, str) and value.startswith("@") else value
                      for name, value in json.loads(text).items()}
            request = cogpredict.Request(run.name, "/predictions", {"input": values}, lane.url("hook"), logged=logged)
            response = cogpredict.run_prediction(host, request, progress, lane)
            host.close()
            store.finish(response, uploads_at=lane.url("out"), live=None)
    except cogpredict.Interrupted as interruption:
        cogpredict.die_by(interruption.signal_number)
    except cogpredict.CogError as error:
        console.error(error)
        sys.exit(error.exit_code)


predict(*sys.argv[1:4], "--hold" in sys.argv)
