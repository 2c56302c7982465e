"""The benchmarks run, their records hold what makes them repeatable, and a fall is noticed."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_mlflow import train
from alexnet_mlflow.device import compute_in
from alexnet_mlflow.graph import Captured
from alexnet_mlflow.model import build
from benchmarks import bench_demo, bench_step, bench_tracking, run
from benchmarks.record import FIELDS, RECORDS, kept, read, spread
from benchmarks.run import BENCHMARKS
from tests.flaky import MODES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
NEEDED = ("command", "commit", "versions", "hardware", "runs")
# Made before there was one form. What they say of it stands elsewhere in them, or nowhere: they are
# not held against anything, and nothing is invented for them.
EARLIER = {
    "2026-11-23-bench_recipe-fddb-cpu.json": {"versions", "hardware"},
    "2026-11-23-bench_faces-cpu.json": {"command", "commit", "versions", "hardware"},
    "2026-11-23-bench_scale-cpu.json": {"commit", "versions", "hardware"},
    "2026-11-23-bench_step-cpu.json": {"versions", "hardware", "runs"},
}
# Settings with which each takes seconds, and what a run of each must say.
TINY = {
    "bench_step": ("--rounds=1 --batch=4 --workers=0 --steps=1",
                   {"batch", "optimizer", "fit", "sgemm_gflops", "copy_gbytes", "contiguous",
                    "own_kept", "own_glibc", "side_by_side"}),
    "bench_data": ("--rounds=1 --pictures=100 --workers=0", {"part"}),
    "bench_tracking": ("--epochs=1 --trials=1 --pictures=16", {"of", "seconds"}),
    "bench_start": ("--rounds=1 --limit=8", {"help", "import_both", "first_epoch"}),
    "bench_demo": ("--rounds=1 --limit=16", {"side_by_side", "one_after_the_other"}),
    "bench_search": (
        "--rounds=1 --limit=24 --batch-size=8 --trials=2 --fine-trials=1 --epochs=1 "
        "--rival=exhaustive --rival=processes", {"exhaustive", "processes"},
    ),
    "bench_recipe": (
        "--dataset=digits --limit=60 --epochs=1 --seeds=1 --batch-size=30 --without=averaging",
        {"recipe", "seed", "best_val_accuracy"},
    ),
    "bench_layers": ("--rounds=1 --batch=2 --calls=1", {"batch", "ms"}),
    "bench_scale": (
        "--rounds=1 --pictures=200 --pictures=300 --steps=1 --trials=2",
        {"of", "count", "peak_mib", "open_files"},
    ),
}
THREADS = {"bench_demo.py": "2"}  # it trains side by side
RUNS = [1.50, 1.60, 1.55]


def made_up(runs: list[float] = RUNS, **changes: Any) -> dict[str, Any]:
    return {
        "benchmark": "bench_step", "taken_at": "2026-01-01T00:00:00+00:00", "command": "python",
        "commit": "0" * 40, "versions": {"torch": "2"}, "hardware": {"device": "CPU", "cores": 2},
        "ratios": {"fit over report": spread(runs)}, "runs": [{}], **changes,
    }


def script(name: str, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *words], input=given, text=True, capture_output=True,
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": THREADS.get(name, "1")}, timeout=900,
    )


@functools.cache
def tiny(name: str) -> subprocess.CompletedProcess[str]:
    return script(f"{name}.py", *TINY[name][0].split())


def compare(new: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return script("compare.py", "-", f"--records={folder}", given=new)


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_says_how_it_was_made(path: Path) -> None:
    record = json.loads(path.read_text())
    if "-curves-" in path.name:  # no times: searches' curves, by the commit that trained them
        assert {"git_commit", "data_digest", "seed", "trials"} <= record.keys()
        return
    missing = {name for name in NEEDED if not record.get(name)}
    assert missing == EARLIER.get(path.name, set())
    if path.name not in EARLIER:
        assert path.name.startswith(f"{record['taken_at'][:10]}-{record['benchmark']}-")
        read(path.read_text())


LONG = pytest.mark.skipif(
    "ALEXNET_BENCHMARKS" not in os.environ,
    reason="ALEXNET_BENCHMARKS is not set: all take seven minutes; `make bench-check` runs the "
    "quick ones, which bench_demo, bench_search and bench_scale are not",
)


SHORT = ("bench_data", "bench_recipe", "bench_layers")


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=LONG) for name in TINY]
)
def test_it_prints_a_table_and_a_record(name: str) -> None:
    options, fields = TINY[name]
    done = tiny(name)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) > 1, "no table"
    record = read(done.stdout)
    assert record["benchmark"] == name
    assert record["command"] == f"python benchmarks/{name}.py {options}"
    assert len(record["commit"].removesuffix("+changes")) == 40
    threads = int(THREADS.get(f"{name}.py", "1"))
    assert record["hardware"]["threads"] == threads and record["hardware"]["instructions"]
    assert fields <= set().union(*(row.keys() for row in record["runs"]))
    assert record["ratios"]
    if name == "bench_recipe":
        assert any(one.startswith("strong over strong without averaging") for one in
                   record["ratios"])


def test_a_part_that_the_optimizer_has_not_is_refused() -> None:
    done = script("bench_recipe.py", "--dataset=digits", "--optimizer=adam", "--without=nesterov")
    assert done.returncode == 2 and "adam has no nesterov" in done.stderr


@LONG
def test_the_loop_of_processes_finds_the_winner_of_the_exhaustive_search() -> None:
    [found] = read(tiny("bench_search").stdout)["runs"]
    same = ("epochs_spent", "best_val_accuracy", "best_lr", "best_weight_decay")
    assert [found["processes"][name] for name in same] == [
        found["exhaustive"][name] for name in same
    ]
    assert found["processes"]["best_lr"] is not None


def test_every_benchmark_is_run_with_options_that_it_knows() -> None:
    scripts = {path.stem for path in FOLDER.glob("bench_*.py")}
    assert scripts - {"bench_faces"} == set(BENCHMARKS) == set(TINY), "bench_faces needs a model"
    for name, benchmark in BENCHMARKS.items():
        main = importlib.import_module(f"benchmarks.{name}").main
        for options in filter(None, (benchmark.full, benchmark.quick, benchmark.on_cuda)):
            main.make_context(name, options.split())  # raises where one is unknown


def test_the_demo_that_is_timed_is_the_makefile_s() -> None:
    assert f"DEMO := {' '.join(bench_demo.DEMO)}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("said", "beside"),
    [("adam is trained meanwhile, by", True), ("", False),
     ("adam is trained meanwhile, by\nno result: adam is trained here.", False)],
)
def test_a_demo_that_was_not_side_by_side_is_no_record_of_it(said: str, beside: bool) -> None:
    assert bench_demo.checked(said) == beside


def test_a_gpu_has_options_of_its_own_and_only_for_what_knows_one() -> None:
    search, data = BENCHMARKS["bench_search"], BENCHMARKS["bench_data"]
    assert search.options("cpu", check=False) == search.full
    assert search.options("cuda", check=False) == search.on_cuda != search.full
    assert search.options("cpu", check=True) is search.options("cuda", check=True) is None
    assert data.options("cuda", check=False) is data.options("cuda", check=True) is None
    step = BENCHMARKS["bench_step"]
    assert (step.options("cuda", False), step.options("cuda", True)) == (step.full, step.quick)


CPU = torch.device("cpu")


@pytest.mark.usefixtures("narrow")
def test_what_is_measured_on_cuda_alone_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_step, "FEW", 2)
    found = bench_step.as_trials("sgd", 4, CPU, 2)
    assert found.keys() == {"as_trial", "trials_alone", "trials_shared"}
    before = Captured.__call__
    assert min(*found.values(), bench_step.eagerly("adam", 4, CPU, 2)) > 0
    assert Captured.__call__ is before


def test_the_rivals_put_back_what_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def ours(*given: Any) -> float:
        seen.append((torch.channels_last, train.keep_freed_memory))
        return 1.0

    monkeypatch.setattr(bench_step, "ours", ours)
    last, keeps = torch.channels_last, train.keep_freed_memory
    bench_step.contiguous("sgd", 4, CPU, 1)
    bench_step.of_its_own("sgd", 4, 1, "glibc")
    assert (torch.channels_last, train.keep_freed_memory) == (last, keeps)
    assert seen[0] == (torch.contiguous_format, keeps)
    assert seen[1][0] is last and seen[1][1] is not keeps


def test_torchs_own_settings_are_those_it_starts_with() -> None:
    asks = ("import torch; print(torch.backends.cuda.matmul.allow_tf32, "
            "torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled())")
    fresh = subprocess.run([sys.executable, "-c", asks], text=True, capture_output=True, check=True)
    compute_in("bf16", deterministic=False)
    bench_step.as_torch_comes()
    now = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
           torch.are_deterministic_algorithms_enabled())
    compute_in("fp32", deterministic=False)
    assert fresh.stdout.split() == [str(one) for one in now]


def test_the_ratios_of_a_round_on_cuda() -> None:
    rates = {"sgemm_gflops": 500.0, "copy_gbytes": 4000.0, "fit": 100.0, "fixed": 125.0,
             "fp32": 50.0, "tf32": 80.0, "eager": 40.0, "as_trial": 110.0, "trials_alone": 2.0,
             "trials_shared": 6.0, "deterministic": 90.0, "report_0_workers": 2.0,
             "report_8_workers": 10.0}
    [found] = [bench_step.ratios_of([rates], flop=2e9, gbytes=30.0)]
    assert {name: pytest.approx(values) for name, values in found.items()} == {
        "of_sgemm": [0.4], "of_copy_bandwidth": [0.75], "of_fixed_batch": [0.8],
        "over_report_best_of_0_8_workers": [10.0], "over_report_no_workers": [50.0],
        "trials_shared_over_alone": [3.0], "fit_over_fp32": [2.0], "fit_over_tf32": [1.25],
        "fit_over_deterministic": [100 / 90], "fit_over_eager": [2.5],
        "fit_over_as_trial": [100 / 110],
    }


def test_the_least_that_a_step_moves_is_counted_in_passes_over_the_weights() -> None:
    """By hand: 23,272,266 weights of 4 bytes; forward, backward, slopes twice, weights twice, and
    twice each number that the optimizer keeps of a weight."""
    for optimizer, numbers in (("sgd", 1), ("adam", 2)):
        least = bench_step.least_gbytes(optimizer, build(bench_step.CLASSES, 0))
        assert least == pytest.approx((2 + 2 + 2 + 2 * numbers) * 4 * 23_272_266 / 1e9)


def test_an_epochs_share_is_told_of_every_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_tracking.requests.Session, "send", None)  # the meter's, put back
    meter = bench_tracking.Meter()
    for number, place in enumerate(("sqlite", "server", *MODES), 1):
        for name in (place, f"{place}, one by one"):
            meter.seconds[f"epoch: {name}"] = [1.0, 2.0 * number]
    found = bench_tracking.ratios_of(meter)
    assert {mode: found[f"of_an_epoch_of_2_s, {mode}"] for mode in MODES} == {
        mode: [2 / 3, 1 / (1 + number)] for number, mode in enumerate(MODES, 3)
    }


def test_a_copy_has_a_rate() -> None:
    assert 0 < bench_step.copy_gbytes(CPU, mib=1) < 10_000


def test_on_a_gpu_the_reports_loop_gets_fewer_pictures_and_more_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = torch.device("cuda")
    steps = {batch: bench_step.steps_of_report(batch, cuda, 500, 1) for batch in (32, 128, 1024)}
    assert steps == {32: 500, 128: 156, 1024: 19}
    assert bench_step.steps_of_report(1024, cuda, 500, 16) == 128
    assert bench_step.steps_of_report(1024, cuda, 1, 0) == 1
    assert bench_step.steps_of_report(1024, CPU, 500, 2) == 500
    for cores, expected in ((1, (0,)), (9, (0, 2, 4, 8)), (64, (0, 2, 4, 8, 16))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert bench_step.workers_on(cuda) == expected
        assert bench_step.workers_on(CPU) == (0, 1, 2)


def test_a_name_that_is_none_is_refused() -> None:
    for words, said in ((["bench_none"], "there is no bench_none"),
                        (["--check", "bench_scale"], "no quick one")):
        done = script("run.py", *words)
        assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("runs", "code"),
    [
        (RUNS, 0),
        ([1.9, 2.0, 2.1], 0),  # better
        ([1.45, 1.50, 1.47], 0),  # within the margin
        ([1.20, 1.25, 1.22], 1),
        ([1.20, 1.60, 1.22, 1.21, 1.19], 1),  # one lucky run hides nothing
        ([1.56, 0.20, 1.54, 1.55, 1.57], 0),  # and one slow run accuses nobody
        ([0.9, 1.8, 1.3], 0),  # too noisy to tell
    ],
)
def test_a_ratio_that_fell_is_told(tmp_path: Path, runs: list[float], code: int) -> None:
    kept(made_up(), tmp_path)
    new = made_up(runs, taken_at="2026-02-01T00:00:00+00:00")
    done = compare("a table\n" + json.dumps(new), tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("FELL" in done.stdout) == bool(code)


def test_a_change_of_seconds_is_no_fall(tmp_path: Path) -> None:
    kept(made_up(seconds=1.0), tmp_path)
    new = made_up(seconds=100.0, taken_at="2026-02-01T00:00:00+00:00")
    assert compare(json.dumps(new), tmp_path).returncode == 0


def test_the_newest_record_of_the_same_hardware_counts(tmp_path: Path) -> None:
    kept(made_up([3.0]), tmp_path)
    kept(made_up([1.0], taken_at="2026-01-02T00:00:00+00:00"), tmp_path)
    faster = {"device": "CPU", "cores": 64}
    kept(made_up([9.0], taken_at="2026-01-03T00:00:00+00:00", hardware=faster), tmp_path)
    kept(made_up([9.0], taken_at="2026-01-03T00:00:00+00:00", benchmark="bench_data"), tmp_path)
    new = made_up([1.0], taken_at="2026-02-01T00:00:00+00:00", versions={"torch": "3"})
    done = compare(json.dumps(new), tmp_path)
    assert done.returncode == 0 and "2026-01-02" in done.stdout
    assert "torch was 2, is 3" in done.stdout


def test_another_instruction_set_is_another_machine(tmp_path: Path) -> None:
    """Two kinds of virtual machine were called AMD EPYC; another one looked like a fall."""
    machine = {"device": "CPU", "cores": 2}
    wide, plain = ({**machine, "instructions": name} for name in ("AVX512", "AVX2"))
    kept(made_up([9.0], hardware=machine), tmp_path)
    kept(made_up([9.0], hardware=wide), tmp_path)
    done = compare(json.dumps(made_up([1.0], hardware=plain)), tmp_path)
    assert done.returncode == 0 and "no record for this hardware" in done.stdout
    done = compare(json.dumps(made_up([1.0], hardware=wide)), tmp_path)
    assert done.returncode == 1 and "on CPU, AVX512, 2 cores" in done.stdout


def test_an_earlier_record_of_the_machine_with_two_kinds_is_avx2(tmp_path: Path) -> None:
    machine = {"device": "AMD EPYC", "cores": 2}
    kept(made_up([9.0], hardware=machine), tmp_path)
    for name, code in (("AVX2", 1), ("AVX512", 0)):
        new = made_up([1.0], hardware={**machine, "instructions": name})
        assert compare(json.dumps(new), tmp_path).returncode == code


def test_each_ratio_has_the_newest_record_that_has_it(tmp_path: Path) -> None:
    """One of a few settings does not hide the one of all before it."""
    more = {"kept": spread([3.0]), "other": spread([3.0])}
    kept(made_up(ratios=more), tmp_path)
    kept(made_up(ratios={"kept": spread([1.0])}, taken_at="2026-01-02T00:00:00+00:00"), tmp_path)
    new = made_up(
        ratios={"kept": spread([1.0]), "other": spread([1.0]), "fresh": spread([1.0])},
        taken_at="2026-02-01T00:00:00+00:00",
    )
    done = compare(json.dumps(new), tmp_path)
    words = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["holds", "kept"] in words and ["FELL", "other"] in words and ["new", "fresh"] in words
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("runs", "code", "told"),
    [(None, 1, "0 ratios compared, 0 fell, twice: keep records of this machine first"),
     ([3.0], 1, "1 ratios compared, 1 fell, twice"),
     ([1.0], 0, "1 ratios compared, 0 fell, twice")],
)
def test_a_check_that_could_compare_nothing_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    runs: list[float] | None, code: int, told: str,
) -> None:
    if runs:
        kept(made_up(runs, benchmark="bench_start"), tmp_path)
    new = made_up([1.0], benchmark="bench_start", taken_at="2026-02-01T00:00:00+00:00")
    monkeypatch.setattr(run, "measured", lambda *_: new)
    with pytest.raises(SystemExit) as ended:
        run.main(["--check", f"--records={tmp_path}", "bench_start"], standalone_mode=False)
    assert ended.value.code == code and told in capsys.readouterr().out


def test_what_fell_once_and_not_again_has_not_fallen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(made_up([3.0], benchmark="bench_start"), tmp_path)
    later = {"benchmark": "bench_start", "taken_at": "2026-02-01T00:00:00+00:00"}
    takes = [made_up([1.0], **later), made_up([3.0], **later)]
    monkeypatch.setattr(run, "measured", lambda *_: takes.pop(0))
    with pytest.raises(SystemExit) as ended:
        run.main(["--check", f"--records={tmp_path}", "bench_start"], standalone_mode=False)
    assert ended.value.code == 0 and not takes
    assert "1 ratios compared, 0 fell, twice" in capsys.readouterr().out


def test_no_record_for_that_hardware_is_said(tmp_path: Path) -> None:
    kept(made_up(hardware={"device": "another", "cores": 2}), tmp_path)
    done = compare(json.dumps(made_up()), tmp_path)
    assert done.returncode == 0
    assert "no record for this hardware" in done.stdout


def malformed() -> dict[str, str]:
    texts = {"empty": "", "text": "no record", "list": "[]"}
    for name in FIELDS:
        record = made_up()
        del record[name]
        texts[f"without {name}"] = json.dumps(record)
    for name, ratio in (("no runs", {}), ("empty runs", {"runs": []}), ("words", {"runs": ["x"]}),
                        ("a number", 1.0), ("NaN", {"runs": [float("nan")]})):
        texts[f"a ratio with {name}"] = json.dumps(made_up(ratios={"r": ratio}))
    texts["no cores"] = json.dumps(made_up(hardware={"device": "CPU"}))
    return texts


@pytest.mark.parametrize("text", malformed().values(), ids=malformed().keys())
def test_a_malformed_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read(text)


def test_malformed_files_end_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    kept(made_up(), tmp_path)
    other = made_up(ratios={"another": spread([1.0])}, taken_at="2026-02-01T00:00:00+00:00")
    for text in ("no record", json.dumps(other)):
        done = compare(text, tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
    place = tmp_path / "2026-01-01-bench_step-broken.json"
    place.write_text('{"ratios": 1}')
    done = compare(json.dumps(made_up(taken_at="2026-02-01T00:00:00+00:00")), tmp_path)
    assert done.returncode == 2 and place.name in done.stderr


def test_a_second_record_of_a_day_stands_beside_the_first(tmp_path: Path) -> None:
    record = made_up()
    first, second = kept(record, tmp_path), kept(copy.deepcopy(record), tmp_path)
    assert first.name == "2026-01-01-bench_step-cpu-2-cores.json"
    assert second.name == "2026-01-01-bench_step-cpu-2-cores-2.json"
    assert read(first.read_text()) == record
