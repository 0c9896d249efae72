"""Write ``docs/reference/config.md`` and refresh the sentences in the presets, both from the schema.

python tools/make_config_reference.py           write
python tools/make_config_reference.py --check   exit 1 if something is not current
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hantune.config.fields import sections, settings  # noqa: E402
from hantune.config.io import PRESETS, dump_config, load_config, preset_names, preset_text, write_value  # noqa: E402
from hantune.config.names import OTHER_NAMES, WITHOUT_COUNTERPART  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "config.md"
WHY = "  # 为什么: "

HEAD = """# 运行配置

<!-- 由 tools/make_config_reference.py 从 hantune/config/schema.py 生成; 要改就改那里. -->

一次训练的全部设置写在一个 YAML 文件里 (YAML 1.2; 也可以是 JSON). 没写的用默认值.

```
hantune init run.yaml --preset cpu-lora        写一份完整的, 带说明的配置
hantune config show run.yaml                   每个值是多少, 从哪里来
hantune config check run.yaml                  一次列出全部错误
hantune train run.yaml train.epochs=1          命令行上的 节.设置=值 优先
```

优先级从低到高: 默认值, 预设 (文件顶上一行 `preset: 名字`, 或 `--preset`), 文件, 命令行.
文件里的相对路径从运行命令的文件夹算起.

- 值的类型由 YAML 决定: `8` 是整数, `2e-4` 是数, `true` 和 `false` 是开关, `null` 是留空, `[a, b]` 是列表.
  数字不要加引号.
- 命令行上的值也这样读: `train.max_steps=null`, `adapter.targets=[q_proj, v_proj]`, `eval.max_samples=50`.
- 写错的名字会提示最接近的设置, 其它工具的名字也认得 (见最后).
- 密钥, 密码, 令牌不能写进配置: 配置会抄进运行文件夹和报告.
"""


def page() -> str:
    """The reference page as Markdown."""
    lines = [HEAD]
    for section, section_class in sections().items():
        lines += [f"## {section}: {section_class.__doc__}", "", *table("设置", "类型", "默认", "说明")]
        lines += [
            row(f"`{setting.name}`", setting.description, f"`{write_value(setting.default)}`", setting.sentence)
            for setting in settings().values()
            if setting.section == section
        ]
        lines.append("")
    lines += ["## 预设", "", *table("名字", "用在哪里", "和默认不同的设置"), *map(preset_row, preset_names())]
    lines += ["", "## 其它工具的名字", "", *table("那里", "这里")]
    lines += [row(f"`{other}`", f"`{ours}`") for other, ours in OTHER_NAMES.items()]
    lines += [row(f"`{other}`", reason) for other, reason in WITHOUT_COUNTERPART.items()]
    return "\n".join(lines) + "\n"


def table(*titles: str) -> list[str]:
    """The two head lines of a Markdown table."""
    return [row(*titles), "|" + "---|" * len(titles)]


def row(*cells: str) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def preset_row(name: str) -> str:
    """A preset's name, use, and what it sets otherwise than the defaults."""
    config = load_config(None, preset=name).config
    values = {key: getattr(getattr(config, setting.section), setting.key) for key, setting in settings().items()}
    changed = [f"`{key}={write_value(v)}`" for key, v in values.items() if v != settings()[key].default]
    return row(f"`{name}`", preset_text(name).splitlines()[0].partition(": ")[2], ", ".join(changed))


def preset(name: str) -> str:
    """A preset's text with its own head and reasons, its values, and the present sentences."""
    old = preset_text(name)
    head = old.partition("\n\n")[0]
    reasons: dict[str, str] = {}
    lines = old.splitlines()
    section = ""
    for line, following in zip(lines, lines[1:], strict=False):
        section = line[:-1] if line and line[0] not in " #" else section
        if line.startswith(WHY):
            reasons[f"{section}.{following.strip().partition(':')[0]}"] = line
    return head + "\n\n" + with_reasons(dump_config(load_config(None, preset=name).config, comments=True), reasons)


def with_reasons(text: str, reasons: dict[str, str]) -> str:
    """``text`` with a line above each setting that has a reason."""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        section = line[:-1] if line and line[0] not in " #" else section
        name = f"{section}.{line.strip().partition(':')[0]}"
        lines += [reasons[name]] if name in reasons and not line.startswith("  #") else []
        lines.append(line)
    return "\n".join(lines) + "\n"


def wanted() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    return {PAGE: page(), **{PRESETS / f"{name}.yaml": preset(name) for name in preset_names()}}


def main(arguments: list[str]) -> int:
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted()[path], encoding="utf-8", newline="\n")
        print(path.relative_to(ROOT).as_posix())
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
