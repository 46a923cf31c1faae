"""How often a program is given to PyTorch's translation to ONNX: more than once is the long way."""

from opendetr.exporting import translation


def counted_translations(monkeypatch) -> list[object]:
    """Has an entry, the program, for each translation from now on."""
    translate, taken = translation._translate, []

    def translate_and_note(program, names):
        taken.append(program)
        return translate(program, names)

    monkeypatch.setattr(translation, "_translate", translate_and_note)
    return taken
