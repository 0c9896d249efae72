"""The gate of a run: what does not fit into memory or on the disk does not start, and the way out is said.

    configuration ─> outlook ─> fits: go on
                             └> ladder of changes ─> plan.no-fit
"""

from __future__ import annotations

from hantune.config.io import as_overrides
from hantune.config.schema import RunConfig
from hantune.errors import RefusedError
from hantune.log import size
from hantune.paths import quoted
from hantune.train.planning.ladder import Ladder, Rung, climb
from hantune.train.planning.outlook import Outlook
from hantune.train.setup import Material


def require_fit(config: RunConfig, material: Material, outlook: Outlook) -> None:
    """Nothing, if the run fits.

    Raises: RefusedError ``plan.no-fit`` with the changes that make it fit, ``plan.no-disk``.
    """
    if not outlook.fits:
        raise no_fit(outlook, climb(config, material, outlook))
    require_disk(config, outlook)


def require_disk(config: RunConfig, outlook: Outlook) -> None:
    """Nothing, if what the run writes has room.

    Raises: RefusedError ``plan.no-disk``.
    """
    if outlook.fits_disk:
        return
    disk = outlook.disk
    ways = ["train.output_dir=另一个盘的文件夹"]
    if config.train.keep_checkpoints > 2:
        spared = (config.train.keep_checkpoints - 2) * disk.checkpoint
        ways.insert(0, f"train.keep_checkpoints=2 (省 {size(spared)})")
    raise RefusedError(
        "plan.no-disk",
        f"磁盘放不下: 检查点每个 {size(disk.checkpoint)}, 结果 {size(disk.output)}, 最多时一共 {size(disk.most)}, "
        f"只剩 {size(outlook.free_disk)}",
        place="train.output_dir",
        hint=", 或 ".join(ways),
    )


def no_fit(outlook: Outlook, ladder: Ladder) -> RefusedError:
    """The refusal, with the ladder and the shortest way out."""
    needs, has = size(outlook.memory.needed), size(outlook.target.room or 0)
    lines = [f"内存放不下: 预计最多要 {needs}, {outlook.target.name()}只能用 {has}", *rungs_told(ladder.rungs)]
    if ladder.fits:
        hint = f"加上这些就放得下 (预计 {size(ladder.last.memory.needed)}): {overrides_of(ladder)}"
    else:
        lines.append(f"      全用上还要 {size(ladder.last.memory.needed)}. {what_fits(ladder.last)}")
        hint = "换小一些的模型或内存大一些的机器; 算多大的卡放得下: hantune plan RUN.yaml --devices 80GB"
    return RefusedError(
        "plan.no-fit", "\n".join(lines), hint=f"{hint}; 一定要试: train.memory_check=false"
    )


def rungs_told(rungs: tuple[Rung, ...]) -> list[str]:
    """A line for each change: what it saves on top of those before it, what is then left, what it costs."""
    changes = [" ".join(as_overrides(rung.values)) for rung in rungs]
    width = max((len(change) for change in changes), default=0)
    return [
        f"      {change:<{width}}  省 {size(rung.saves):>7}  剩 {size(rung.peak):>7}  {rung.cost}"
        for change, rung in zip(changes, rungs, strict=True)
    ]


def overrides_of(ladder: Ladder) -> str:
    """The needed changes as they are typed."""
    return " ".join(quoted(text) for text in as_overrides(ladder.values))


def what_fits(outlook: Outlook) -> str:
    """Which model, or which length, this memory holds with the settings of ``outlook``: a rule of three."""
    memory, room = outlook.memory, outlook.target.room or 0
    tensors = memory.tensors
    fixed = memory.needed - tensors.most - memory.holes
    left = room - fixed
    if left > tensors.standing:
        passing = memory.needed - fixed - tensors.standing
        longest = int(outlook.largest.longest * (left - tensors.standing) / passing)
        return f"这个模型在这里最长能练约 {longest} 个词元的样本"
    parameters = outlook.parameters * max(0, left) / (memory.needed - fixed)
    if parameters < 1e6:
        return "这里连最小的模型也放不下"
    words = f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
    return f"这样的设置在这里最多能练约 {words} 参数的模型 (一条样本 {outlook.largest.longest} 个词元)"
