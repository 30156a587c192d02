"""The ablation of the character model at toy size: rows, equal time, what is trained again, table and picture."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import language_model_ablation as ablation
from benchmarks.language_model_ablation import ROWS, Settings
from longspan.models.causal_layers import CausalSelfAttention
from longspan.training.language_modelling import LanguageModelRecipe, LanguageModelResult

TINY = Settings(
    hidden_size=8,
    heads=4,
    sequence_length=48,
    steps=(4, 2),
    learning_rates=(3e-3, 1e-3),
    eval_every=2,
    eval_characters=200,
    timed_rounds=1,
)


def test_windows_have_one_average_and_full_attention_holds_the_sequence() -> None:
    windowed = {name: row for name, row in ROWS.items() if not row.full}
    assert {sum(row.attention_window) for row in windowed.values()} == {464}
    assert list(ROWS["increasing"].attention_window) == sorted(ROWS["increasing"].attention_window)
    assert ROWS["decreasing"].attention_window == ROWS["increasing"].attention_window[::-1]
    assert set(ROWS["full"].attention_window) == {ablation.SETTINGS.sequence_length}
    assert max(ROWS["increasing"].attention_window) < ablation.SETTINGS.sequence_length
    dilated = [entry for entry in ROWS["dilated"].attention_dilation if entry != 1]
    assert all(sum(dilation > 1 for dilation in heads) == 2 for heads in dilated if isinstance(heads, tuple))


def test_a_small_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ablation, "SETTINGS", TINY)
    # Twice as fast as rotary windows, so twice the steps.
    seconds = dict.fromkeys(ROWS, 0.2) | {"full": 0.1}
    monkeypatch.setattr(ablation, "step_seconds", lambda rows, *_, **__: {name: seconds[name] for name in rows})
    (tmp_path / "text.txt").write_text("the court held that the clause is void. " * 100)
    arguments = ["--text", str(tmp_path / "text.txt"), "--output", str(tmp_path / "runs"), "--rows", "rotary,full",
                 "--threads", str(torch.get_num_threads()),
                 "--results", str(tmp_path / "results")]  # fmt: skip
    ablation.main([*arguments, "--seeds", "0"])

    trained: list[str] = []
    train = ablation.train_language_model

    def counted(recipe: LanguageModelRecipe, **options: object) -> LanguageModelResult:
        if not (Path(recipe.output_dir) / "result.json").is_file():
            trained.append(Path(recipe.output_dir).name)
        return train(recipe, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation, "train_language_model", counted)
    ablation.main([*arguments, "--seeds", "0,1"])
    assert trained == [f"{name}-seed-1" for name in ("rotary", "full")]

    (written,) = (tmp_path / "results").glob("*.json")
    rows = json.loads(written.read_text())["rows"]
    assert {name: row["steps"] for name, row in rows.items()} == {"rotary": 6, "full": 12}
    for row in rows.values():
        assert all(0 < bits < 9 for bits in row["bits_per_character"])
        assert [curve[-1] for curve in row["curves"]] == [
            [row["steps"] * 48, bits] for bits in row["bits_per_character"]
        ]
    assert [point[0] for point in rows["rotary"]["curves"][0]] == [2 * 48, 4 * 48, 6 * 48]
    assert written.with_suffix(".png").stat().st_size > 10_000
    table = capsys.readouterr().out.strip().splitlines()[-2:]
    assert [line.split(" | ")[1] for line in table] == [ROWS[name].label for name in rows]


def test_full_attention_stands_in_while_it_trains_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("full_attention", "windows"):
        whole = ablation.full_attention if name == "full_attention" else CausalSelfAttention._attend

        def note(*arguments: torch.Tensor, name: str = name, whole: object = whole) -> torch.Tensor:
            asked.append(name)
            return whole(*arguments)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(*((ablation, name) if name == "full_attention" else (CausalSelfAttention, "_attend")), note)
    text = tmp_path / "text.txt"
    text.write_text("the court held that the clause is void. " * 100)
    row = ablation.Row(label="", attention_window=(48, 48), attention_dilation=(1, 1), full=True,
                       position_encoding="rotary")  # fmt: skip
    recipe = ablation.recipe(
        row, TINY, text=text, unit="bytes", output=tmp_path / "run", cache=tmp_path, seed=0, share=0.5
    )
    ablation.train_language_model(recipe, callbacks=[ablation.FullAttention()], progress=False)
    assert asked == ["full_attention"] * 2 * (2 + 1)  # layers times steps


@pytest.mark.parametrize(
    ("rows", "words"),
    [("increasing,sideways", "there is no row 'sideways'"), ("increasing,full", "gets the time of the row rotary")],
)
def test_rows_that_make_no_sense(rows: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablation.main(["--text", "text.txt", "--output", str(tmp_path), "--rows", rows])
    assert words in capsys.readouterr().err
