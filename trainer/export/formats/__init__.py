"""The formats, by the names that `--to` takes."""

from trainer.export.formats import hf, internvl, llamafactory, ms_swift, trl, trl_kto
from trainer.export.formats.base import Format, LeftOut

FORMATS: dict[str, Format] = {
    "trl": trl.FORMAT,
    "trl-kto": trl_kto.FORMAT,
    "ms-swift": ms_swift.FORMAT,
    "llamafactory": llamafactory.FORMAT,
    "internvl": internvl.FORMAT,
    "hf": hf.FORMAT,
}

__all__ = ["FORMATS", "Format", "LeftOut"]
