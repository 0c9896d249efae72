#!/usr/bin/env bash
# The one-command way: make the environment, then prepare, train, evaluate, merge and report (hantune finetune).
set -euo pipefail

show_help() {
  cat <<'HELP'
用法: bash run_finetune.sh [选项]

一条命令走完全程: 安装环境, 整理对话, 训练, 评测, 合并, 写报告. 不带选项时使用自带的小模型和示例对话,
没有显卡也能跑, 不下载模型.

  --use_cpu                           只用 CPU, 即使有显卡
  --max_samples N                     最多用 N 段对话 (按种子抽样, 不是取前 N 段)
  --max_turns N                       每段对话最多保留 N 轮
  --config_file F                     运行配置 (YAML); 命令行选项优先于它
  --skip_data_prep                    不再整理数据, 直接用上次整理好的
  --dataset_name D                    对话文件, 文件夹或数据集名
  --model_name_or_path M              模型文件夹或模型名
  --local_model                       M 只在本机找, 不联网
  --learning_rate X                   学习率, 例如 2e-4
  --num_train_epochs N                训练几遍
  --per_device_train_batch_size N     每张卡每次的样本数
  --gradient_accumulation_steps N     累积几次再更新一次参数
  --output_dir D                      结果放在哪个文件夹
  -h, --help                          显示这份说明 (不安装任何东西)

相对路径从你当前所在的文件夹算起. 环境装在项目根目录的 .venv, 第二次启动不再安装.
环境变量: HANTUNE_PYTHON 指定 Python (3.10 到 3.13), HANTUNE_TORCH_INDEX 指定从哪个索引装 PyTorch.
退出码: 0 完成, 1 过程失败, 2 用法或配置有误, 3 检查不通过, 4 网络, 5 数据无效, 6 环境.
HELP
}

for argument in "$@"; do
  case $argument in
    -h | --help)
      show_help
      exit 0
      ;;
  esac
done

. "$(dirname "${BASH_SOURCE[0]}")/scripts/env.sh"
hantune_env core

# A tokenizers.py or random.py beside the user's data must not stand in for the real one (Python 3.11 and later).
export PYTHONSAFEPATH=1
exec "$VENV_PYTHON" -m hantune finetune "$@"
