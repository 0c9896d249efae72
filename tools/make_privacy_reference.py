"""Write ``docs/reference/privacy.md``: what is recognised, and how well on the labelled synthetic set.

python tools/make_privacy_reference.py           write
python tools/make_privacy_reference.py --check   exit 1 if it is not current
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "reference" / "privacy.md"
FORMS = {
    "手机": "11 位, 可有空格, 横线, 点, +86; 全角, 零宽字符; 汉字数字",
    "座机": "区号 + 7 或 8 位, 可有分机; 400/800",
    "身份证": "18 位, 省份, 生日, 校验位 (GB 11643); 写明是身份证的, 校验位错了也算",
    "银行卡": "15 到 19 位, 发卡前缀, Luhn 校验; 写明是卡号的, 校验错了也算",
    "信用代码": "18 位统一社会信用代码, 校验位 (GB 32100)",
    "邮箱": "名字@域名",
    "QQ": "旁边写着 QQ, 扣扣, 企鹅, 加群的号码",
    "微信": "wxid_ 开头的; 旁边写着微信, vx, wx, v信, 威信, 加v 的",
    "车牌": "普通, 新能源, 挂车等",
    "护照": "E, G 开头; 写明是护照的 D, S, P, H, K, M",
    "IP": "IPv4, IPv6 (本机, 掩码, 版本号, 章节号不算)",
    "网址": "带 token, 签名, 密码的网址, 整个换掉",
    "验证码": "旁边写着验证码, 动态码的 4 到 8 位数字",
    "密钥": "sk-, hf_, ghp_, AKIA, LTAI, JWT, PEM 私钥等; 写明是密码或 api_key 的",
}
HEAD = """# 隐私

<!-- 由 tools/make_privacy_reference.py 生成; 数字来自 benchmarks/data/pii.py 和 pii_wild.py. -->

`hantune data prepare` 认得下面这些隐私内容. `--pii` 说怎么办:

- `mask`: 换成代号, 例如 `<手机1>`. 同一个值在整份数据里是同一个代号, 怎么写都一样 (如 `138 0013 8000`).
  聊天记录里各人的名字也换, 例如 `<人1>`. **聊天记录默认这样做.**
- `keep`: 原样保留. 其它数据默认这样做.
- `drop`: 有隐私内容的对话整段去掉 (`rejects.jsonl` 里只记下种类, 不记原文).

代号和原值的对照表写在输出文件夹的**旁边**: `--out DIR` 对应 `DIR.pii-map.json`, 只有自己能读 (权限 0600).
它不在 DIR 里, 也不会进运行文件夹, 适配器和模型. 不需要时删掉它, 代号就再也换不回来了.
在运行文件夹里自动整理的数据没有对照表.

mask 和 drop 也管 `rejects.jsonl`, `manifest.json` 和来源文件名. manifest.json 只记每种有几处, 不记值.

## 认得什么

| 种类 | 样子 |
|---|---|
"""
TAIL = """
地址 (路名 + 门牌号) 和聊天记录里的人名也认, 但语言没有固定的形式, 不在下面的表里.

**认不出的**: 没有写明是什么的短号码 (例如单独一个 QQ 号), 没有门牌号的地址, 聊天记录以外的人名, 图片里的字, 暗语.
规则不能保证全部认出: 公开之前请自己再看一遍 (`hantune data look`).

## 认得多准

合成的 {count} 条聊天消息 (种子 {seed}): 值的校验位都对, 和汉字紧挨着, 有各种写法; 每三条里有一条只是看着像
(订单号, 价格, 日期, 版本号, 校验位不对的号码). 起止位置和种类都对才算对.

| 种类 | 有 | 认出 | 召回率 | 精确率 |
|---|---|---|---|---|
{scores}

### 混淆表

行是真实的种类, 列是认成的种类; 只列不为零的格子. `无` 是没有隐私内容 (行) 或没有认出 (列).

| 真实 | 认成 | 次数 |
|---|---|---|
{confusion}

## 第二份消息: 没看规则写的

上面的消息和规则出自同一个人, 会一起漏掉同样的写法. 所以另写了一份, 写之前不看规则和第一份:
真人在聊天里的写法 (多出来的空格, 全角, 扣扣, 加v, 分机, 小写车牌), 和更多只是看着像的
(订单, 快递, 版本, 时间戳, ISBN, 哈希, 航班). 共 {wild_count} 条 (种子 {wild_seed}). 第一次量出的召回率在最后一列
(那时 6000 条, 整个值都盖住就算认出), 之后规则照着它改过, 所以前面几列也是上限: 没见过的写法, 第一次的数字更像真的.

| 种类 | 有 | 认出 | 召回率 | 精确率 | 改规则以前的召回率 |
|---|---|---|---|---|---|
{wild_scores}

### 第二份的混淆表

| 真实 | 认成 | 次数 |
|---|---|---|
{wild_confusion}

重做: `python benchmarks/data/pii.py` 和 `python benchmarks/data/pii_wild.py`, 它们还会列出每一条认错的消息.
"""


def benchmark(name: str) -> ModuleType:
    """benchmarks/data/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "data" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def page() -> str:
    """The reference page as Markdown."""
    pii, wild = benchmark("pii"), benchmark("pii_wild")
    tables = {}
    for prefix, labelled in (("", pii.labelled()), ("wild_", wild.labelled())):
        counts = pii.confusion(labelled)
        rows = [
            f"| {kind} | {score.true} | {score.found} | {score.recall:.4f} | {score.precision:.4f} |"
            + (f" {wild.FIRST[kind]:.4f} |" if prefix else "")
            for kind, score in pii.scores(counts).items()
        ]
        cells = [f"| {real} | {said} | {count} |" for (real, said), count in sorted(counts.items())]
        tables |= {f"{prefix}scores": "\n".join(rows), f"{prefix}confusion": "\n".join(cells)}
    forms = "".join(f"| {kind} | {form} |\n" for kind, form in FORMS.items())
    numbers = {"count": pii.MESSAGES, "seed": pii.SEED, "wild_count": wild.MESSAGES, "wild_seed": wild.SEED}
    return HEAD + forms + TAIL.format(**tables, **numbers)


def main(arguments: list[str]) -> int:
    is_current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
    if not is_current and "--check" not in arguments:
        PAGE.write_text(page(), encoding="utf-8", newline="\n")
    return int(not is_current and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
