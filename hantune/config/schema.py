"""The typed run configuration. The sentence of each field is its only description: help, the comments that
``hantune init`` writes, the JSON Schema and ``docs/reference/config.md`` are all made from it.

All models are frozen and refuse unknown keys; ``config/io.py`` turns pydantic's findings into our own errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


def _setting(default: Any, sentence: str, **limits: Any) -> Any:
    """A field with its default, its Chinese sentence (with the unit), and its limits."""
    return Field(default, description=sentence, **limits)


class Section(BaseModel):
    """What every section shares. Strict: YAML types its scalars, so ``"8"`` or ``true`` for a number is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Words = Annotated[tuple[str, ...], Field(strict=False)]
"""A list of texts; not strict, so that YAML's lists become tuples."""
Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]
"""Numbers of transformer layers, counted from 0."""
LastLayers = Annotated[str, Field(pattern=r"^last [1-9][0-9]*$")]
"""``last 8``: the layers nearest the head."""


class ModelSection(Section):
    """底座模型"""

    path: str = _setting("", "底座模型的文件夹, 或者 Hugging Face 上的名字")
    revision: str | None = _setting(None, "名字对应的版本 (提交号); 空 = 最新")
    tokenizer: str | None = _setting(None, "另用一个分词器文件夹; 空 = 用模型自带的")
    load: Literal["full", "8bit", "4bit", "fp8"] = _setting(
        "full",
        "底座怎样放进内存: full = 原样; 8bit, 4bit = 线性层压成 8 比特或 4 比特 (NF4); "
        "fp8 = 压成 8 比特浮点, 乘法也用它 (H100, RTX 40 系这样的显卡); 压过的只能训练适配器",
    )


class DataSection(Section):
    """训练数据"""

    path: str = _setting("", "hantune data prepare 的输出文件夹, 或一个原始数据文件 (会先自动整理)")
    format: str | None = _setting(None, "原始文件的格式名; 空 = 自动认")
    max_samples: Positive | None = _setting(None, "最多用多少条训练对话 (按种子抽样); 空 = 全部")
    max_turns: Positive | None = _setting(None, "每段对话最多保留几轮 (一问一答算一轮); 空 = 全部")
    max_tokens: Annotated[int, Field(ge=8)] = _setting(1024, "一条样本最多多少个词元, 超出的部分先去掉末尾的整轮")
    val_share: Annotated[float, Field(ge=0, lt=1)] = _setting(0.05, "原始文件自动整理时, 留作验证的比例")


class TemplateSection(Section):
    """提示模板"""

    name: str = _setting("auto", "模板名: auto = 模型自带的, 没有就按家族选; 其它见 docs/reference/templates.md")
    system: str | None = _setting(None, "默认系统提示; 空 = 不加 (短对话加长系统提示会让训练慢两倍多)")


class AdapterSection(Section):
    """适配器"""

    kind: Literal["lora", "none"] = _setting("lora", "lora = 只训练小适配器; none = 训练全部参数")
    rank: Positive = _setting(8, "LoRA 的秩, 越大能学的越多, 文件也越大")
    alpha: Annotated[float, Field(gt=0)] = _setting(16.0, "LoRA 的缩放系数, 实际倍数是 alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = _setting(0.0, "LoRA 输入的随机丢弃比例")
    targets: Annotated[Words, Field(min_length=1)] | Literal["all-linear"] = _setting(
        "all-linear", "加适配器的线性层名字列表; all-linear = 除输出层外的全部线性层"
    )
    use_rslora: bool = _setting(False, "倍数改用 alpha / sqrt(rank) (rsLoRA)")
    use_dora: bool = _setting(False, "方向和长度分开学 (DoRA); 学得更像全参数, 每步慢不少")
    layers_to_transform: Layers | LastLayers | None = _setting(
        None,
        "只给这些层加适配器: last 8 = 最后 8 层 (反向算到那里为止, 更快), [20, 21] = 从 0 数的层号; 空 = 全部",
        examples=["last 8", (20, 21)],
    )
    embeddings: Literal["new-rows", "all", "frozen"] = _setting(
        "new-rows", "词嵌入和输出层: new-rows = 只学扩充词表后的新行; all = 整个一起学; frozen = 不学"
    )


class TrainSection(Section):
    """训练"""

    output_dir: str | None = _setting(None, "运行文件夹; 空 = runs/日期-时间; 里面已有一次运行时自动用下一个空名字")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = _setting(42, "随机种子: 同一台机器, 同样的配置, 结果逐位相同")
    epochs: Annotated[float, Field(gt=0)] = _setting(3.0, "训练几遍数据 (可以是小数)")
    max_steps: Positive | None = _setting(None, "最多多少步 (一步 = 更新一次参数); 空 = 由 epochs 决定")
    batch_size: Positive = _setting(8, "每个小批最多几条样本")
    accumulation_steps: Positive = _setting(1, "累积几个小批再更新一次参数")
    batch_tokens: Literal["auto"] | Positive | None = _setting(
        "auto",
        "每个小批最多多少个词元 (含补齐), 超出就拆小; auto = 2048, 用 float32 算时 768; 空 = 不限; "
        "显存大的卡可以加到 8192 以上",
    )
    batching: Literal["auto", "sorted", "packed"] = _setting(
        "auto", "sorted = 长度相近的放一批; packed = 首尾相接放一行, 互不相看; auto = 按设备和模型选"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = _setting(
        2e-4, "最大学习率; LoRA 常用 1e-4 到 5e-4, 训练全部参数常用 1e-5 到 5e-5"
    )
    lora_plus_ratio: Annotated[float, Field(gt=0)] = _setting(
        1.0, "LoRA 的 B 矩阵的学习率是别的参数的几倍 (LoRA+, 常用 16); 1 = 一样"
    )
    schedule: Literal["cosine", "linear", "constant"] = _setting("cosine", "学习率升到最大以后怎样降")
    warmup_share: Share = _setting(0.03, "总步数的前多大比例用来升学习率")
    weight_decay: Annotated[float, Field(ge=0)] = _setting(0.0, "权重衰减 (AdamW)")
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit"] = _setting(
        "adamw", "优化器: 8bit = 状态只占四分之一; paged = 显存不够时状态挪到内存 (CPU 上没有这一步)"
    )
    max_grad_norm: Annotated[float, Field(gt=0)] | None = _setting(1.0, "梯度范数上限, 超过就按比例缩小; 空 = 不裁剪")
    neftune_alpha: Annotated[float, Field(ge=0)] = _setting(
        0.0, "训练时给词嵌入加多大的噪声 (NEFTune, 常用 5); 0 = 不加"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = _setting(
        0.0, "标签平滑: 把多少概率分给全部词元 (常用 0.1); 只改训练损失, 不改验证损失"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = _setting(
        0.0, "评测和结果用参数的滑动平均, 每步保留多少旧值 (例如 0.99); 0 = 不用"
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = _setting("auto", "计算精度; auto = 按机器选, 并说明理由")
    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "用什么算; auto = 有能用的显卡就用显卡")
    threads: Positive | None = _setting(None, "CPU 线程数; 空 = 物理核数")
    activation_checkpointing: Literal["auto"] | bool = _setting(
        "auto", "用时间换内存: 反向时重算中间结果; auto = 预计放不下才用, 并说明理由"
    )
    prepack: Literal["auto"] | bool = _setting(
        "auto", "用内存换时间 (CPU): 不学的权重按矩阵乘法要的次序预先排好; auto = 更快而且放得下就排, 并说明理由"
    )
    memory_check: bool = _setting(
        True, "开始前先算要多少内存和磁盘, 放不下就不开始 (hantune plan); false = 不看, 直接开始"
    )
    guards: Literal["stop", "warn"] = _setting(
        "stop", "训练发散或学不动时: stop = 停在上一个好检查点; warn = 只提醒, 接着练"
    )
    compile: Literal["auto", "on", "off"] = _setting(
        "auto", "编译逐元素的运算 (CPU, 要 C++ 编译器): auto = 训练超过 20 分钟时先试, 合算才用"
    )
    save_every_steps: Positive | None = _setting(None, "每多少步存一个检查点; 空 = 全程存 5 次左右")
    final: Literal["last", "best"] = _setting("last", "结束时取哪个: last = 最后一步; best = 最好的一步 (见 best_by)")
    best_by: Literal["held_out", "probe"] = _setting(
        "held_out", "按什么算最好: held_out = 验证损失最低; probe = 试答分最高 (见 docs/guides/watching.md)"
    )
    early_stop_patience: Positive | None = _setting(
        None, "验证损失连续几次评测都没有降, 就提前停止; 空 = 总是练完"
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] = _setting(3, "保留最近几个检查点 (最好的另外保留)")


class EvalSection(Section):
    """训练中的评测"""

    every_steps: Positive | None = _setting(None, "每多少步算一次验证损失; 空 = 全程 5 次左右")
    max_samples: Positive | None = _setting(None, "验证损失最多用多少条; 空 = 按训练量取 32 到 200 条")
    probes: Words | None = _setting(
        None, "训练途中试答的问题; 空 = 八个: 常见问题, 和验证对话里抽的几个; [] = 不试答"
    )
    probe_max_tokens: Positive | None = _setting(
        None, "试答时每个问题最多答多少个词元; 空 = 按训练数据里回答的长度, 32 到 256"
    )
    probe_share: Share = _setting(
        0.02, "试答最多占全部计算的多大比例: 不够就少问几次, 少答几个字, 但开头和结尾总会问"
    )


class LogSection(Section):
    """记录"""

    every_steps: Positive = _setting(1, "每多少步记一次损失")
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "swanlab", "trackio"], ...], Field(strict=False)] = (
        _setting((), "另外发送到哪些记录工具; 缺了或没登录都不会停下训练")
    )


class RunConfig(Section):
    """一次训练的全部设置"""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    template: TemplateSection = TemplateSection()
    adapter: AdapterSection = AdapterSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _best_by_probe_needs_probes(self) -> RunConfig:
        if self.train.best_by == "probe" and self.eval.probes == ():
            raise ValueError("train.best_by=probe 要有试答的问题, 而 eval.probes 是空的")
        return self

    @model_validator(mode="after")
    def _few_bits_are_frozen(self) -> RunConfig:
        if self.model.load != "full" and self.adapter.kind == "none":
            raise ValueError(f"model.load={self.model.load} 的底座是冻住的, 不能用 adapter.kind=none 训练全部参数")
        return self

    @model_validator(mode="after")
    def _fp8_has_its_own_arithmetic(self) -> RunConfig:
        if self.model.load == "fp8" and self.train.precision == "fp16":
            raise ValueError("model.load=fp8 旁边用 bf16 算, 不能用 train.precision=fp16")
        if self.model.load == "fp8" and self.adapter.use_dora:
            raise ValueError("model.load=fp8 不能用 adapter.use_dora: DoRA 每步要原来的权重")
        return self

    @model_validator(mode="after")
    def _fp16_needs_a_card(self) -> RunConfig:
        if self.train.precision == "fp16" and self.train.device == "cpu":
            raise ValueError("train.precision=fp16 只能用在显卡上; CPU 请用 float32 或 bf16")
        return self

    @model_validator(mode="after")
    def _lora_options_need_lora(self) -> RunConfig:
        """A setting that reaches nothing is a mistake."""
        asked = {
            "adapter.use_dora": self.adapter.use_dora,
            "adapter.layers_to_transform": self.adapter.layers_to_transform is not None,
            "adapter.embeddings": self.adapter.embeddings != "new-rows",
            "train.lora_plus_ratio": self.train.lora_plus_ratio != 1,
        }
        if self.adapter.kind == "none" and any(asked.values()):
            names = ", ".join(name for name, is_asked in asked.items() if is_asked)
            raise ValueError(f"adapter.kind=none 训练全部参数, 用不到 {names}")
        return self
