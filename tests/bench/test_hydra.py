"""Hydra is Hydra: its flags, its grammar, its search path; every mistake is one line, told before anything runs."""

import importlib
import json
import logging
import sys

import pytest
import yaml
from bench_commands import records
from conftest import PROJECT
from hydra._internal.utils import get_args_parser
from own_folder import SMALL, in_folder, write

import analysis.plan
import bench.run
from bench.config import plugins
from bench.config.compose import compose_run
from bench.config.files import ConfigFiles, with_search_path
from bench.config.identity import identity_of
from bench.config.schema import RunConfig
from bench.config.sweep import expand
from bench.errors import UserError
from bench.runs.record import read_record
from bench.runs.record_schema import Metrics, Step


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write(folder)
    return folder


@pytest.fixture
def folder(one_folder, monkeypatch):
    monkeypatch.chdir(one_folder)
    return one_folder


@pytest.fixture
def hydra(folder, monkeypatch, capfd):
    """Call the command here; gives its status, stdout, stderr, and what it would have run."""
    ran: list[RunConfig] = []

    def execute(run):
        ran.append(run)
        return 1.0

    def call(*arguments):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["bench.run", *arguments])
        monkeypatch.setattr(bench.run, "_failures", [])
        status = 0
        try:
            bench.run.main()
        except SystemExit as end:
            status = end.code or 0
        return status, *capfd.readouterr(), list(ran)

    monkeypatch.setattr(bench.run, "execute", execute)
    monkeypatch.setattr(bench.run, "listen", lambda: None)
    monkeypatch.setenv(bench.run.FAILURES, "")
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield call
    root.level, root.handlers[:] = before
    for logger in root.manager.loggerDict.values():  # hydra/job_logging=disabled does so to all
        logger.disabled = False


def ids(value):
    return " ".join(value) or "nothing" if isinstance(value, list) else ""


# arguments, what is printed; every flag of Hydra's parser is here in all its spellings (a test below)
SHOWS = [
    (["--help"], "scenario"),
    (["-h", "scenario=tio2_10_250"], "python -m bench.run -m"),
    (["--hydra-help"], "--experimental-rerun"),
    (["seed=3", "--hydra-help"], "--experimental-rerun"),
    (["--version"], "Hydra 1."),
    (["--cfg", "job"], "batch_size: 10"),
    (["--cfg=job", "seed=3"], "seed: 3"),
    (["seed=3", "-c", "job", "batch_size=4"], "batch_size: 4"),
    (["-c", "hydra"], "sweeper:"),
    (["--cfg", "all"], "sweeper:"),
    (["--cfg", "job", "--package", "scenario"], "pool: 2000"),
    (["-c", "job", "-p", "scenario", "scenario.pool=7"], "pool: 7"),
    (["--cfg", "job", "--resolve"], "r_max: 4.0"),
    (["--info"], "Defaults Tree"),
    (["-i", "all"], "Defaults Tree"),
    (["--info", "config"], "Config search path"),
    (["--info", "defaults"], "Defaults List"),
    (["--info", "defaults-tree"], "algorithm: maxdiag_rnd"),
    (["seed=1", "--info", "plugins"], "BasicSweeper"),
    (["--info", "searchpath"], "pkg://hydra.conf"),
    (["--shell-completion", "install=bash"], "complete"),
    (["-sc", "install=fish"], "complete"),
    (["-sc", "install=zsh"], "complete"),
    (["-sc", "uninstall=bash"], "unset"),
    (["--config-dir", "conf", "-c", "job", "scenario=mine"], "final: 7"),
    (["--config-dir=conf", "-c", "job", "scenario=mine"], "final: 7"),
    (["-cd", "conf", "scenario=mine", "--info", "defaults"], "scenario/mine"),
    (["scenario=mine", "hydra.searchpath=[file://conf]", "-c", "job"], "final: 7"),
    (["hydra.searchpath=[conf]", "scenario=mine", "-c", "job"], "final: 7"),
    (["-cd", "conf", "--config-name", "primary", "-c", "job"], "seed: 5"),
    (["-cd=conf", "-cn", "primary", "-c", "job"], "seed: 5"),
    (["--config-path", str(PROJECT / "conf"), "-c", "job"], "seed: 0"),
    (["-cp", "conf", "-cn", "kernel/mine", "-c", "job"], "shift: 0.5"),
]
RUNS = [
    ([], {"seed": [0]}),
    (["--run", "seed=4"], {"seed": [4]}),
    (["-r", "seed=4"], {"seed": [4]}),
    (["--multirun", "seed=4,5"], {"seed": [4, 5]}),
    (["seed=4,5", "-m", "batch_size=2,3"], {"seed": [4, 4, 5, 5], "batch_size": [2, 3, 2, 3]}),
    (["hydra.mode=MULTIRUN", "seed=4,5"], {"seed": [4, 5]}),
    (["-m", "seed=choice(3,1)"], {"seed": [3, 1]}),
    (["-m", "seed=range(1,4)"], {"seed": [1, 2, 3]}),
    (["-m", "seed=range(1,6,step=2)"], {"seed": [1, 3, 5]}),
    (["-m", "seed=sort(3,1,2)"], {"seed": [1, 2, 3]}),
    (["-m", "seed=sort(choice(3,1,2),reverse=true)"], {"seed": [3, 2, 1]}),
    (["-m", "seed=shuffle(7,7)"], {"seed": [7, 7]}),
    (["-m", "seed=tag(mark,choice(1,2))"], {"seed": [1, 2]}),
    (["-m", "seed=int(choice(1,2))"], {"seed": [1, 2]}),
    (["-m", "algorithm=glob(maxdiag_g*)"], {"kernel": ["GP(LL)", "GP(RP)"]}),
    (["-m", "algorithm=glob([maxd*],exclude=[maxdia*,*rp])"], {"selection": ["MaxDet"] + ["MaxDist"] * 2}),
    (["-m", "model.hidden=[3,4],[5,6]"], {"hidden": [(3, 4), (5, 6)]}),
    (["-m", "+sweep=demo", "seed=3"], {"kernel": ["RND", "GP(LL)", "FEAT(LL)"], "seed": [3, 3, 3]}),
    (["-m", "+sweep=mine", "-cd", "conf"], {"kernel": ["MINE", "MINE"], "seed": [1, 2]}),
    (["-m", "+sweep=mine", "hydra.searchpath=[file://conf]"], {"kernel": ["MINE", "MINE"], "seed": [1, 2]}),
    (["-m", "algorithm=glob(*mine)", "hydra.searchpath=[conf]"], {"kernel": ["MINE"]}),
    (["--config-dir=conf", "scenario=mine", "kernel=mine", "+kernel.shift2=1", "~kernel.shift2"], {"kernel": ["MINE"]}),
    (["+training.adam_epsilon=1e-6", "++seed=4"], {"seed": [4]}),
    (["~training.decay", "seed='4'"], {"seed": [4]}),
    (["~dataset.sha256", "+dataset.sha256=null", 'kernel.name="a b"'], {"kernel": ["a b"]}),
    (["seed=4", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"], {"seed": [4]}),
    (["seed=4", "hydra/job_logging=none", "hydra/hydra_logging=none"], {"seed": [4]}),
    (["results=out/${seed}", "seed=2"], {"results": ["out/2"]}),
    (["results=${hydra:runtime.cwd}/out"], {"results": ["{folder}/out"]}),
    (["-cd", "conf", "-cn", "primary", "--package", "scenario"], {"seed": [5], "results": ["of_seed_5"]}),
]
MISTAKES = [
    (["--confg-dir", "conf"], "unknown option '--confg-dir': did you mean '--config-dir'"),
    (["--seed", "3"], "values are given as key=value"),
    (["--cfg", "jobs"], "invalid choice: 'jobs'"),
    (["--info", "seed=3"], "invalid choice: 'seed=3'"),
    (["--cfg", "job", "-m"], "--multirun and --cfg exclude each other"),
    (["--resolve"], "--resolve goes with --cfg or --help"),
    (["-c", "job", "-p", "scenaro"], "nothing is there; did you mean 'scenario'"),
    (["-c", "job", "scenario=demi"], "no scenario is called 'demi': did you mean 'demo'"),
    (["--help", "batchsize=3"], "'batchsize': did you mean 'batch_size'"),
    (["-c", "job", "seed=1,2"], "seed=1,2: several values need -m"),
    (["seed=1,2"], "seed=1,2: several values need -m"),
    (["seed=1,2", "seed=1"], "seed=1,2: several values need -m"),
    (["--config-dir", ""], "--config-dir: an empty name (is a variable of the shell not set?): name a folder"),
    (["kernel.name=' '"], "kernel.name = ' ': give a name of one line"),
    (["--config-dir", "holder", "results=x"], "holder holds a folder 'results', which Hydra takes for a group of"),
    (["--config-dir", "holder", "seed=3"], "holder holds a folder 'seed', which Hydra takes for a group of"),
    (["plugins=nowhere", "kernel._target_=nowhere.Kernel"], "put nowhere.py into the working folder or on PYTHONPATH"),
    (["-sc"], "say install=SHELL"),
    (["-sc", "install=ksh"], "one of bash, fish, zsh"),
    (["--experimental-rerun", "nowhere"], "there is no file nowhere"),
    (["--experimental-rerun", "own_kernel.py"], "own_kernel.py is no job of Hydra: give the config.pickle"),
    (["hydra.run.dir=/proc/nowhere"], "cannot write to /proc/nowhere (No such file or directory)"),
    (["hydra.run.dir=own_kernel.py"], "cannot write to own_kernel.py (File exists)"),
    (["--config-dir", "nowhere"], "there is no folder {folder}/nowhere"),
    (["-cp", "nowhere"], "there is no folder {folder}/nowhere"),
    (["-cn", "nowhere"], "Cannot find primary config 'nowhere'"),
    (["-cd", "conf", "-cn", "broken"], "broken.yaml, line 2 is no YAML"),
    (["hydra.searchpath=[nowhere]"], "there is no folder {folder}/nowhere"),
    (["hydra.searchpath=[pkg://nowhere]"], "there is no package nowhere"),
    (["hydra.searchpath=conf"], "give a list of folders"),
    (["-cd", "conf", "scenario=mone"], "no scenario is called 'mone': did you mean 'mine'"),
    (["hydra.searchpath=[conf]", "algorithm=maxdiag_min"], "did you mean 'maxdiag_mine'"),
    (
        ["-cd", "conf", "kernel=mine", "plugins=[]"],
        "'own_kernel.Mine' is no part of the project: nothing",
    ),
    (["kernel._target_=os.system"], "unless you name its module, plugins=os"),
    (["plugins=[own_kernel.py]"], "plugins = 'own_kernel.py': give a module's name, as import does: my_kernel"),
    (["plugins=os", "kernel._target_=os.system"], "kernel._target_ = 'os.system' is no dataclass"),
    (["-cd", "conf", "kernel=mine", "kernel.shfit=1"], "'kernel.shfit'"),
    (["-cd", "conf", "kernel=mine", "plugins=own_kernel", "+kernel.shfit=1"], "kernel.shfit: did you mean 'shift'"),
    (["-m", "-cd", "conf", "+sweep=mine", "seed=1,x"], "seed = 'x'"),
    (["-m", "algorithm=glob(nothing*)"], "stands for no value at all: known: lcmd_feat_ll"),
    (["-m", "seed=range(0,0)"], "stands for no value at all"),
    (["-m", "seed=interval(0,3)"], "an interval needs a sweeper"),
    (["-m", "hydra.job.name=a,b"], "Hydra's own keys take one value"),
    (["hydra.jab.name=x"], "did you mean 'hydra.job.name'"),
    (["hydra/sweeper=basics"], "no hydra/sweeper is called 'basics': did you mean 'basic'"),
    (["hydra.mode=SWEEP"], "Invalid value 'SWEEP'"),
    (["hydra.sweeper=3"], "choose one with hydra/sweeper=…"),
    (["results=${nothing}"], "'nothing' not found"),
    (["algorithm=null"], "give the name of a file of this group"),
    (["training=[1,2]"], "give the name of a file of this group"),
    (["scenario="], "no scenario is called ''"),
    (["=3"], "a key is missing"),
    (["seed"], "cannot read 'seed'"),
    (["+scenario=demo"], "scenario is chosen twice"),
    (["+seed=3"], "leave out the +"),
    (
        ["training.adam_epsilon=1e-6"],
        "'training.adam_epsilon' is at its default, for no file names it: put a + in front",
    ),
    (["filed_final=3"], "filed_final is computed: do not set it"),
    (["sweep=demo"], "bench.run takes it as -m +sweep=…"),
    (["cluster=slurm"], "cluster=… is for bench.launch"),
    (["reduced=aspirin_1000"], "the defaults name no file of the group 'reduced': put a + in front"),
    (["~scenario"], "configuration key scenario: Field required"),
    (["~dataset.name"], "configuration key dataset.name: Field required"),
    (["results="], "results = '': name a folder"),
    (["results='~/mine'"], "results = '~/mine': name a folder ($HOME for ~"),
    (["device=gpu"], "device = 'gpu': say cpu, cuda"),
    (["seed=true"], "configuration key seed = true: give a number"),
    (["model.n_gaussians=true"], "configuration key model.n_gaussians = true: give a number"),
    (["training.force_weight=inf"], "configuration key training.force_weight = inf: give a finite number"),
    (["model.r_max=nan"], "configuration key model.r_max = nan: give a finite number"),
    (["model.r_min=7"], "model.r_min = 7 Å is not below model.r_max = 4 Å: change one"),
    (["~sede"], "unknown configuration key 'sede': did you mean 'seed'"),
    (["objective=test_force_mae", "training=energies"], "choose an error of energies"),
]


@pytest.mark.parametrize(("arguments", "shown"), SHOWS, ids=ids)
def test_shown_and_nothing_run(folder, hydra, arguments, shown):
    status, out, err, ran = hydra(*arguments)
    assert (status, err, ran) == (0, "", []) and shown in out


@pytest.mark.parametrize(("arguments", "expected"), RUNS, ids=ids)
def test_what_words_run(folder, hydra, arguments, expected):
    status, _, err, ran = hydra(*arguments)
    assert status == 0, err
    of = {"kernel": lambda r: r.kernel["name"], "selection": lambda r: r.selection["name"]}
    of["hidden"] = lambda r: tuple(r.model["hidden"])
    for key, values in expected.items():
        found = [of.get(key, lambda r, key=key: getattr(r, key))(run) for run in ran]
        assert found == [value.format(folder=folder) if isinstance(value, str) else value for value in values]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=ids)
def test_a_mistake_is_one_line_before_anything_runs(folder, hydra, arguments, message, monkeypatch):
    monkeypatch.setattr(plugins, "_named", set())
    before = set(folder.iterdir())
    status, out, err, ran = hydra(*arguments)
    (line,) = err.splitlines()
    assert (status, out, ran) == (2, "", []) and line.startswith("error: ")
    assert message.format(folder=folder) in line
    assert set(folder.iterdir()) == before


def test_every_flag_of_hydra_is_tried():
    tried = {word.partition("=")[0] for arguments, _ in [*SHOWS, *RUNS] for word in arguments}
    flags = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert flags - tried == {"--experimental-rerun"}  # in a test of its own


def test_rerun_of_a_job(folder, hydra):
    """What Hydra's callback has pickled is run again, with the folders of its time."""
    keep = ["+hydra.callbacks.keep._target_=hydra.experimental.callbacks.PickleJobInfoCallback"]
    keep += ["hydra.output_subdir=.hydra", "hydra.run.dir=kept"]
    status, _, err, (first,) = hydra("-cd", "conf", "scenario=mine", "training.epochs=3", "seed=8", *keep)
    assert status == 0 and first.deviations == {"training.epochs": 3}, err
    with pytest.warns(UserWarning, match="Experimental rerun"):
        status, _, err, (again,) = hydra("--experimental-rerun", "kept/.hydra/config.pickle")
    assert status == 0 and again == first, err


def test_help_is_short_and_true(hydra):
    """The groups, a line each, and three examples that compose."""
    _, out, _, _ = hydra("--help")
    lines = out.strip().splitlines()
    groups = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()}
    assert {line.split()[0] for line in lines if line.startswith("  ")} == groups and len(lines) < 25
    examples = [line.split()[3:] for line in lines if line.startswith("python -m bench.run ")]
    assert len(examples) == 3
    for words_ in examples[:2]:
        assert hydra(*words_)[0] == 0


def test_a_copy_is_never_taken_for_the_original(folder):
    """Deviations are from the project's file of the scenario's name, wherever the values came from."""
    files = ConfigFiles(folders=(str(PROJECT / "conf"), str(folder / "conf")))
    assert compose_run(["scenario=mine"], files).deviations == {}
    assert compose_run(["scenario=copy_of_demo"], files).deviations == {"training.epochs": 7}
    primary = ConfigFiles("primary", files.folders)
    assert compose_run([], primary).deviations == {}
    assert compose_run(["scenario.test=9"], primary).deviations == {"scenario.test": 9}


def test_a_file_that_the_project_s_would_hide_is_refused(tmp_path):
    """Hydra would take the project's without a word; a folder in place of the project's hides nothing."""
    own = tmp_path / "own"
    (own / "kernel").mkdir(parents=True)
    (own / "kernel" / "descriptor.yaml").write_text("_target_: own_kernel.Mine\nname: MINE\n")
    told = "own/kernel/descriptor.yaml has the name of one of the project's files, which hides it: rename it"
    beside = ConfigFiles(folders=(str(PROJECT / "conf"), str(own)))
    for files, words in ((beside, []), (ConfigFiles(), [f"hydra.searchpath=[file://{own}]"])):
        with pytest.raises(UserError, match=told):
            with_search_path(files, words)
    with_search_path(ConfigFiles(folders=(str(own),)), [])
    with_search_path(ConfigFiles(), [f"hydra.searchpath=[file://{PROJECT}/conf]"])


def test_a_sweep_of_one_s_own(folder):
    """Its words say where its files are; what refers to a seed is composed for each."""
    files = ConfigFiles("primary", (str(PROJECT / "conf"), str(folder / "conf")))
    cells = expand(["sweep=mine", "seed=4,5", "~training.decay"], files)
    assert [(cell.run.seed, cell.run.results) for cell in cells] == [(4, "of_seed_4"), (5, "of_seed_5")]
    said = ("--config-name=primary", f"hydra.searchpath=[{folder}/conf]", "+sweep=mine")
    assert cells[0].words[:3] == said
    assert expand(["sweep=glob(m*e)", "hydra.searchpath=[conf]"])[0].run.kernel["name"] == "MINE"
    for mistaken, message in [
        (["sweep=mien"], "no sweep is called 'mien': did you mean 'mine'"),
        (["sweep=mine", "seed=interval(1,2)"], "an interval needs a sweeper"),
        (["sweep=mine", "batch_size=0"], "batch_size = 0"),
    ]:
        with pytest.raises(UserError, match=message):
            expand(mistaken, files)


def test_a_launch_and_a_plan_of_one_s_own_sweep(folder, monkeypatch, capfd):
    """Configuration and kernel of the working folder, in the workers too; both tell scripts how far it is."""
    given = ["sweep=mine", "-cd", "conf", "cluster=mine", *SMALL]
    done = in_folder("bench.launch", *given, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {record["configuration"]["kernel"]["shift"] for record in records(folder / "out")} == {0.5}
    status = json.loads(in_folder("bench.launch", *given, "--status", "--json").stdout)
    assert set(status) == {"workers", "counts", "runs"} and status["workers"] == 0
    assert status["counts"] == {
        **dict.fromkeys(("running", "interrupted", "failed", "damaged", "missing"), 0),
        "done": 2,
    }
    row = status["runs"][0]
    assert list(row) == [
        *("run_id", "folder", "state", "scenario", "deviations", "selection", "kernel", "batch_size", "seed"),
        *("words", "failure"),
    ]
    assert row["state"] == "done" and read_record(folder / row["folder"] / "record.json").run_id == row["run_id"]
    monkeypatch.setattr(sys, "argv", ["plan", *given, "seed=1,9", "--json", "--workers=2"])
    analysis.plan.main()
    plan = json.loads(capfd.readouterr().out)
    assert list(plan) == [
        *("counts", "seconds_spent", "seconds_to_come", "seconds_to_come_with_workers", "runs", "damaged"),
    ]
    assert (plan["counts"]["done"], plan["counts"]["missing"]) == (1, 1)
    assert plan["seconds_to_come"] > 0 and plan["seconds_spent"] > 0
    assert list(plan["runs"][0]) == [
        *("scenario", "deviations", "algorithm", "batch_size", "seed", "state", "run_id", "steps", "steps_in_all"),
        *("seconds_spent", "seconds_to_come", "failure", "words"),
    ]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("analysis.plan", ["sweep=mien", "-cd", "conf", "--json"], "did you mean 'mine'"),
        ("analysis.plan", ["--jsn"], "unknown option '--jsn': did you mean '--json'"),
        ("analysis.plan", ["cluster=slrum"], "did you mean 'slurm'"),
        ("bench.merge", ["--nope", "a", "b"], "unknown option '--nope'"),
        ("bench.migrate", [], "the following arguments are required: RESULTS"),
        ("analysis.build", ["--pge"], "unknown option '--pge': did you mean '--page'"),
        ("bench.launch.__main__", ["sweep=demo", "--json"], "--json goes with --status"),
        ("bench.launch.__main__", ["sweep=demo", "cluster=local,slurm"], "a launch has one cluster"),
        ("bench.launch.__main__", ["sweep=demo", "hydra.searchpath=[nowhere]"], "there is no folder"),
    ],
)
def test_mistakes_of_launch_and_plan(folder, monkeypatch, capfd, module, arguments, message):
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main()
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert (end.value.code, out) == (2, "") and line.startswith("error: ") and message in line


def test_what_a_run_returns(tmp_path):
    """The validation error that stopped training, or a test error if asked; nothing where a run failed."""
    metrics = {f"energy_{name}_kcal_mol": 2.0 for name in ("mae", "rmse", "maxe")} | {"force_mae_kcal_mol_A": 3.0}
    step = Step(
        n_train=2,
        session=0,
        energy_scale_eV=1.0,
        best_epochs=[1, 1],
        validation_eV=[0.5, 0.25],
        metrics=Metrics(**metrics),
        seconds_training=1.0,
    )
    found = {
        objective: bench.run.objective(compose_run([f"objective={objective}"]), step)
        for objective in ("validation", "test_force_mae", "test_energy_rmse")
    }
    assert found == {"validation": 0.375, "test_force_mae": 3.0, "test_energy_rmse": 2.0}
    assert identity_of(compose_run(["objective=test_force_mae"]), "") == identity_of(compose_run([]), "")


def test_optuna_lowers_what_a_run_returns(folder, hydra, monkeypatch):
    """Hydra's sweeper for Optuna takes a run's value, and goes on after one that failed, which is no number."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs pip install hydra-optuna-sweeper")
    tried = []

    def execute(run):
        tried.append(run.training.learning_rates["network"])
        if len(tried) == 2:
            raise ArithmeticError("no luck")
        return (tried[-1] - 0.02) ** 2

    monkeypatch.setattr(bench.run, "execute", execute)
    sweep = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", "results=optuna"]
    status, _, err, _ = hydra("-m", *sweep, "model.learning_rates.network=tag(log,interval(0.003,0.1))")
    assert status == 2 and "ArithmeticError: no luck" in err
    assert len(tried) == 4 and all(0.003 <= rate <= 0.1 for rate in tried)
    best = yaml.safe_load((folder / "optuna/multirun/optimization_results.yaml").read_text())
    assert best["best_value"] == min((rate - 0.02) ** 2 for rate in [tried[0], *tried[2:]])
