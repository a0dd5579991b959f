"""How good is the potential: full training on 100 random structures of the embedded data. Minutes."""

import pytest
from bench_commands import command, records


@pytest.mark.long
def test_full_training_on_aspirin(tmp_path):
    """Revised labels: three seeds gave force MAE 1.43-1.53, RMSE 2.08-2.19 kcal/mol/Å; far outside, something broke."""
    done = command("scenario=single_training", "scenario.test=1000", f"results={tmp_path}")
    assert done.returncode == 0, done.stderr
    metrics = records(tmp_path)[0]["steps"][-1]["metrics"]
    assert 1.3 < metrics["force_mae_kcal_mol_A"] < 1.7
    assert 1.8 < metrics["force_rmse_kcal_mol_A"] < 2.5
