"""``hantune init``: a complete run file with a sentence above every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("写一份带中文说明的运行配置.")

HEAD = """# hantune 的运行配置. 每个设置上面是它的说明; 删掉一行就用默认值.
# 检查: hantune config check 这个文件    训练: hantune train 这个文件
"""


@command(app, "init")
def init(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="要写的文件; 已有的文件不会被覆盖")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="节.设置=值", help="先填好的设置, 例如 model.path=m110")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="从哪个预设开始; 名字写错会列出全部")
    ] = None,
) -> Answer:
    """写一份完整的运行配置, 每个设置都有一行说明.

    例子:  hantune init run.yaml --preset cpu-lora model.path=m110 data.path=prepared
    """
    from hantune.config.check import COMMAND_LINE
    from hantune.config.io import dump_config, load_config, preset_text, with_values
    from hantune.config.schema import RunConfig
    from hantune.errors import ConfigError
    from hantune.paths import quoted, write_file

    if run_file.exists():
        raise ConfigError(
            "config.exists",
            f"已经有这个文件了: {run_file}",
            place=str(run_file),
            hint=f"换一个名字, 或先改名留底: mv {quoted(run_file)} {quoted(f'{run_file}.old')}",
        )
    loaded = load_config(None, overrides or (), preset)
    defaults = HEAD + "\n" + dump_config(RunConfig(), comments=True)
    template = preset_text(loaded.preset) if loaded.preset else defaults
    given = [name for name, origin in loaded.origins.items() if origin == COMMAND_LINE]
    values = {
        name: getattr(getattr(loaded.config, section), key) for name in given for section, key in [name.split(".")]
    }
    write_file(run_file, with_values(template, values))
    typed = quoted(run_file)
    missing = [key for key in ("model.path", "data.path") if key not in given]
    todo = f"填上 {' 和 '.join(missing)}, 然后" if missing else "下一步"
    return Answer(
        result={"path": str(run_file), "preset": loaded.preset, "missing": missing},
        text=f"写好了 {run_file}\n{todo}: hantune config check {typed} && hantune train {typed}",
    )
