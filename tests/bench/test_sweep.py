"""A sweep's name means exactly the paper's experiments; splits add up; altered runs are marked."""

from collections import Counter

import pytest
from bench_commands import command

from bench.config.compose import compose_run
from bench.config.identity import cell_of, identity_of
from bench.config.sweep import expand
from bench.errors import UserError

# docs/method.md, Experiments: structures of the dataset, N_train, N_batch, pool, validation, test, r_max, algorithms
PAPER = {
    "md17_10_100": (211_762, 10, 100, {2, 5, 10}, 150_000, 2000, 59_752, 4.0, 15),
    "md17_100_1000": (211_762, 100, 1000, {10, 25, 50, 100}, 150_000, 2000, 59_662, 4.0, 15),
    "qm9_1000_10000": (130_831, 1000, 10_000, {50, 100, 250}, 100_000, 2000, 27_831, 3.0, 13),
    "qm9_5000_25000": (130_831, 5000, 25_000, {250}, 100_000, 2000, 23_831, 3.0, 13),
    "tio2_10_250": (7815, 10, 250, {2, 5, 10}, 6000, 200, 1605, 6.5, 15),
    "tio2_500_2500": (7815, 500, 2500, {50, 100, 250}, 6000, 200, 1115, 6.5, 15),
    "lmnto_100_1000": (2616, 100, 1000, {25, 50, 100}, 2000, 200, 316, 6.5, 15),
}


@pytest.fixture(scope="module")
def paper():
    return expand(["sweep=paper"])


def algorithm(run):
    return f"{run.selection['name']} + {run.kernel['name']}"


def test_the_292(paper):
    runs = [cell.run for cell in paper]
    assert len(runs) == 1460 and {run.seed for run in runs} == set(range(5))
    assert len({(run.scenario.name, algorithm(run), run.batch_size) for run in runs}) == 292
    assert len({cell_of(identity_of(run, "")) for run in runs}) == 1460
    for name, (total, start, end, batches, pool, validation, test, r_max, algorithms) in PAPER.items():
        of_scenario = [run for run in runs if run.scenario.name == name]
        sizes = of_scenario[0].scenario
        assert sizes.initial + sizes.pool + sizes.validation + (sizes.test or 0) == total
        values = (sizes.initial, sizes.final, sizes.pool, sizes.validation, sizes.test)
        assert values == (start, end, pool, validation, test)
        assert {run.scenario for run in of_scenario} == {sizes} and of_scenario[0].model["r_max"] == r_max
        assert {run.batch_size for run in of_scenario} == batches
        assert len({algorithm(run) for run in of_scenario}) == algorithms
        assert len(of_scenario) == 5 * algorithms * len(batches)
        forces = name.split("_")[0] != "qm9"
        assert {run.training.forces for run in of_scenario} == {forces}
        assert {run.model["normalise_invariants"] for run in of_scenario} == {not forces}
        assert {run.training.epochs for run in of_scenario} == {1000 if forces else 500}
    assert not any(run.deviations for run in runs)


def test_figures_are_parts_of_the_paper(paper):
    cells = {cell_of(identity_of(cell.run, "")) for cell in paper}
    counts = {2: 21, 3: 7, 4: 24, 5: 21, 6: 7, 7: 24, 8: 21, 9: 21, 10: 7, 11: 24}
    for number, experiments in counts.items():
        runs = [cell.run for cell in expand([f"sweep=figure_{number}"])]
        assert len(runs) == 5 * experiments
        assert {cell_of(identity_of(run, "")) for run in runs} <= cells


def test_expansion_is_what_the_words_compose(paper):
    """Algorithms, batch sizes and seeds are filled in without composing anew: with the same result."""
    by_scenario = {name: [cell for cell in paper if cell.run.scenario.name == name] for name in PAPER}
    chosen = [cells[7 * (number + 1)] for number, cells in enumerate(by_scenario.values())]
    assert len({algorithm(cell.run) for cell in chosen}) > 3
    for cell in [*chosen, *expand(["sweep=demo", "algorithm=lcmd_feat_rp", "kernel.n_projections=64", "seed=3"])]:
        assert compose_run(cell.words) == cell.run


def test_own_words_replace_the_sweep_s():
    cells = expand(["sweep=demo", "seed=7,8", "training.epochs=5", "algorithm=maxdiag_rnd,maxdiag_gp_ll"])
    assert Counter(cell.run.seed for cell in cells) == {7: 2, 8: 2}
    assert {cell.run.training.epochs for cell in cells} == {5}
    assert cells[0].run.deviations == {"training.epochs": 5}
    once = expand(["sweep=figure_2,figure_3", "seed=0"])
    assert len(once) == 21


@pytest.mark.parametrize("name", PAPER)
def test_a_minibatch_fits_into_the_first_training_set(name):
    """32, but never more than the structures that a scenario starts with, nor another size in its later steps."""
    run = compose_run([f"scenario={name}"])
    assert run.training.minibatch == min(32, run.scenario.initial) and not run.deviations


def test_altered_runs_say_so():
    reduced = compose_run(["scenario=md17_10_100", "+reduced=aspirin_1000"])
    assert reduced.deviations == {"scenario.pool": 600, "scenario.test": None, "scenario.validation": 100}
    for words, found in [
        (["seed=3", "batch_size=2", "algorithm=lcmd_feat_rp", "results=x", "threads=1", "dataset.path=copy"], {}),
        (["dataset=tio2"], {"dataset.name": "tio2"}),
        (["algorithm=lcmd_feat_rp", "kernel.n_projections=9"], {"kernel.n_projections": 9}),
        (["selection=max_diag", "kernel=feat_ll"], {}),
        (["precision=float64"], {"precision": "float64"}),
        (["dataset.reference_energies={1:0,6:-2.5,8:0}"], {"dataset.reference_energies": "{1:0.0,6:-2.5,8:0.0}"}),
        (["dataset.reference_energies=null"], {"dataset.reference_energies": "null"}),
        (["dataset=file", "dataset.reference_energies={1:0}"], {"dataset.name": "file"}),
        (["~dataset.reference_energies", "dataset.name=own_class"], {"dataset.name": "own_class"}),
    ]:
        assert compose_run(words).deviations == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which sweep"),
        (["sweep=papr"], "'papr'.*'paper'"),
        (["sweep=demo", "seed=x"], "seed = 'x'"),
        (["sweep=demo", "algoritm=lcmd_feat_ll"], "algoritm.*algorithm"),
        (["sweep=demo", "dataset.reference_energies={9:0}"], "dataset.reference_energies.*file"),
        (["sweep=demo", "dataset.reference_energies={8:no}"], "reference_energies.8 = 'no'"),
        (["sweep=demo", "training.epochs=many"], "training.epochs = 'many'"),
        (["sweep=demo", "seed=[0"], "cannot read"),
    ],
)
def test_one_line_for_a_mistake(words, message):
    with pytest.raises(UserError, match=message) as caught:
        expand(words)
    assert "\n" not in str(caught.value)


def test_plan_of_the_paper(tmp_path):
    done = command(f"--results={tmp_path}", module="analysis.plan")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[:3] == ["all", "292", "1460"] and last[-3] == "1460"
