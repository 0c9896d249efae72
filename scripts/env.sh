# Sourced by run_finetune.sh and run_tests.sh (bash, works under `set -euo pipefail`):
#   hantune_env core|dev    makes or completes .venv at the project's root and sets VENV_PYTHON
# Result: nothing on stdout; progress in Chinese on stderr. Exit codes: 4 network, 6 environment.
#
# Read from outside: HANTUNE_PYTHON (which Python to use), HANTUNE_TORCH_INDEX (a wheel index to take torch from).

export PYTHONUTF8=1

HANTUNE_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
HANTUNE_VENV="$HANTUNE_ROOT/.venv"
HANTUNE_STAMP="$HANTUNE_VENV/.hantune-stamp"
# Stands while pip or venv is at work; found at a start, it means that an installation was killed.
HANTUNE_UNFINISHED="$HANTUNE_VENV/.hantune-unfinished"
HANTUNE_PIP_LOG="$HANTUNE_VENV/install.log"

hantune_say() { printf '%s\n' "$*" >&2; }

# hantune_fail CODE LINE...
hantune_fail() {
  local code=$1
  shift
  printf '%s\n' "$@" >&2
  exit "$code"
}

# The interpreter inside the environment (Git Bash on Windows has another layout).
hantune_venv_python() {
  if [ -e "$HANTUNE_VENV/Scripts/python.exe" ]; then
    VENV_PYTHON="$HANTUNE_VENV/Scripts/python.exe"
  else
    VENV_PYTHON="$HANTUNE_VENV/bin/python"
  fi
}

# Whether PYTHON starts and is a 64-bit 3.10-3.13.
hantune_supported() {
  "$1" -c 'import sys; sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 13) and sys.maxsize > 2**32))' \
    >/dev/null 2>&1
}

# Sets HANTUNE_BASE_PYTHON to a 64-bit Python 3.10-3.13 that can make environments. A name on PATH proves nothing
# (pyenv leaves stubs for versions that are not active), so each candidate is run.
hantune_find_python() {
  local candidate without_venv=""
  for candidate in ${HANTUNE_PYTHON:+"$HANTUNE_PYTHON"} python3.11 python3.12 python3.13 python3.10 python3 python; do
    if hantune_supported "$candidate"; then
      if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        HANTUNE_BASE_PYTHON=$candidate
        return
      fi
      without_venv=${without_venv:-$candidate}
    fi
    if [ "$candidate" = "${HANTUNE_PYTHON:-}" ]; then
      break # an interpreter that was asked for by name is not silently replaced
    fi
  done
  if [ -n "$without_venv" ]; then
    local version
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    hantune_fail 6 "错误: $without_venv 缺少 venv 模块, 无法创建虚拟环境." \
      "办法: Debian/Ubuntu 上先运行  sudo apt install python$version-venv"
  fi
  if [ -n "${HANTUNE_PYTHON:-}" ]; then
    hantune_fail 6 "错误: HANTUNE_PYTHON=$HANTUNE_PYTHON 不能用, 需要 64 位的 Python 3.10 到 3.13." \
      "办法: 改成可用的 Python, 或者 unset HANTUNE_PYTHON 让脚本自己找"
  fi
  hantune_fail 6 "错误: 没有找到 64 位的 Python 3.10 到 3.13." \
    "办法: 安装 Python 3.11 (Debian/Ubuntu: sudo apt install python3.11 python3.11-venv)," \
    "      或者用 HANTUNE_PYTHON=/路径/python3.11 指定一个"
}

# hantune_fingerprint LEVEL: what the installation depends on, as a hash. The root is part of it because an editable
# installation and the scripts in .venv/bin hold absolute paths: a moved project installs again.
hantune_fingerprint() {
  "$VENV_PYTHON" -I -c '
import hashlib, pathlib, sys
root, level = sys.argv[1:]
digest = hashlib.sha256(f"{level}\n{root}\n{sys.version}\n".encode())
for name in ("pyproject.toml", "constraints.txt"):
    digest.update(pathlib.Path(root, name).read_bytes())
print(digest.hexdigest())' "$HANTUNE_ROOT" "$1" 2>/dev/null
}

# Whether the environment already has LEVEL (dev includes core).
hantune_ready() {
  local level want
  [ -s "$HANTUNE_STAMP" ] && [ ! -e "$HANTUNE_UNFINISHED" ] || return 1
  for level in "$1" dev; do
    want=$(hantune_fingerprint "$level") || return 1
    if [ "$(cat "$HANTUNE_STAMP")" = "$want" ]; then
      return 0
    fi
  done
  return 1
}

# pip inside the environment, untouched by settings that would install somewhere else.
hantune_pip() {
  env -u PIP_TARGET -u PIP_PREFIX -u PYTHONHOME -u PYTHONPATH PIP_USER=0 \
    "$VENV_PYTHON" -m pip "$1" --quiet --disable-pip-version-check --no-input "${@:2}" >"$HANTUNE_PIP_LOG" 2>&1
}

# What pip said last, and the exit code that fits.
hantune_pip_failed() {
  hantune_say "$(tail -n 12 "$HANTUNE_PIP_LOG" 2>/dev/null)"
  if grep -qiE 'connection|timed out|max retries|name resolution|SSLError|No matching distribution' "$HANTUNE_PIP_LOG"; then
    rm -f "$HANTUNE_UNFINISHED" # pip downloads everything before it installs anything: what is there is whole
    hantune_fail 4 "错误: 安装$1失败, 可能是网络不通或镜像里没有这个版本. 完整日志: $HANTUNE_PIP_LOG" \
      "办法: 换一个 pip 镜像 (pip config set global.index-url 镜像地址), 再运行同一条命令; 已下载完的包不会重下"
  fi
  hantune_fail 6 "错误: 安装$1失败. 完整日志: $HANTUNE_PIP_LOG" "办法: 按上面的提示处理后, 再运行同一条命令"
}

# PyTorch's own wheel index for an NVIDIA driver or card that the default build no longer supports (CUDA 13 needs
# driver 580 and Turing or newer), else nothing.
hantune_old_card_index() {
  nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null |
    awk -F'[., ]+' '$1 ~ /^[0-9]+$/ && ($1 < 580 || $(NF-1) + $NF / 10 < 7.5) { old = 1 }
                    END { if (old) print "https://download.pytorch.org/whl/cu126" }' || true
}

# torch comes first and alone: a plain request pulls gigabytes of CUDA libraries onto machines without a card. Its
# dependencies come with the second step, from the ordinary index, because wheel indexes hold only some of them.
hantune_install_torch() {
  local pin index=""
  pin=$(sed -n 's/^\(torch==[0-9][^ ;]*\).*/\1/p' "$HANTUNE_ROOT/constraints.txt")
  if "$VENV_PYTHON" -I -c 'import importlib.metadata as m, sys
sys.exit("torch==" + m.version("torch").split("+")[0] != sys.argv[1])' "$pin" 2>/dev/null; then
    return # whichever build of it (CPU, CUDA) is there was chosen for this machine
  fi
  if [ -n "${HANTUNE_TORCH_INDEX:-}" ]; then
    index=$HANTUNE_TORCH_INDEX
    hantune_say "[2/3] 安装 $pin, 来自 $index ..."
  elif nvidia-smi >/dev/null 2>&1; then
    index=$(hantune_old_card_index)
    hantune_say "[2/3] 有 NVIDIA 显卡: 安装 CUDA 版 $pin (约 3 GB, 需要几分钟) ..."
  elif hantune_pip install --dry-run --no-index --no-deps "$pin"; then
    hantune_say "[2/3] 安装 pip 已能找到的本地 $pin ..."
    hantune_pip install --no-index --no-deps "$pin" || hantune_pip_failed " PyTorch "
    return
  elif [ "$(uname -s)" = Linux ]; then
    index=https://download.pytorch.org/whl/cpu
    hantune_say "[2/3] 没有 NVIDIA 显卡: 安装 CPU 版 $pin (约 200 MB) ..."
  else
    hantune_say "[2/3] 安装 $pin ..."
  fi
  if [ -n "$index" ]; then
    if hantune_pip install --retries 1 --timeout 20 --no-deps --index-url "$index" "$pin"; then
      return
    fi
    hantune_say "      从 $index 没有装成, 改用 pip 的默认来源 (可能要多下载几 GB) ..."
  fi
  hantune_pip install "$pin" -c "$HANTUNE_ROOT/constraints.txt" || hantune_pip_failed " PyTorch "
}

# Make .venv unless a whole one is there. What a killed installation left cannot be trusted (pip believes a package
# whose metadata was written before its files), so it goes; pip's cache makes the second try cheap.
hantune_make_venv() {
  hantune_venv_python
  if [ -e "$HANTUNE_UNFINISHED" ]; then
    hantune_say "上次安装被打断, 重新创建 .venv ..."
    rm -rf "$HANTUNE_VENV"
  elif [ -e "$HANTUNE_VENV" ] || [ -L "$HANTUNE_VENV" ]; then
    if hantune_supported "$VENV_PYTHON" &&
      { "$VENV_PYTHON" -m pip --version || "$VENV_PYTHON" -m ensurepip; } >/dev/null 2>&1; then
      return
    fi
    if [ -d "$HANTUNE_VENV" ] && [ ! -e "$HANTUNE_VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$HANTUNE_VENV")" ]; then
      hantune_fail 6 "错误: $HANTUNE_VENV 已存在, 但不是虚拟环境." "办法: 先把它移走, 再运行同一条命令"
    fi
    hantune_say ".venv 不能用 (Python 版本不合或文件不全), 重新创建 ..."
    rm -rf "$HANTUNE_VENV"
  fi
  hantune_find_python
  hantune_say "[1/3] 创建虚拟环境 .venv ($("$HANTUNE_BASE_PYTHON" --version 2>&1)) ..."
  mkdir -p "$HANTUNE_VENV"
  : >"$HANTUNE_UNFINISHED"
  "$HANTUNE_BASE_PYTHON" -m venv "$HANTUNE_VENV" >&2 ||
    hantune_fail 6 "错误: 创建虚拟环境失败 (见上)." "办法: 换一个 Python: HANTUNE_PYTHON=/路径/python3.11"
  hantune_venv_python
}

hantune_install() {
  local level=$1 extras="" words=""
  if [ "$level" = dev ]; then
    extras="[dev]"
    words="和测试工具"
  fi
  hantune_make_venv
  rm -f "$HANTUNE_STAMP"
  : >"$HANTUNE_UNFINISHED"
  # pip answers Ctrl-C as if it had failed by itself, which would not count as a kill here.
  trap 'hantune_fail 130 "已中断. 再运行同一条命令就会重新安装."' INT
  if ! "$VENV_PYTHON" -c 'import pip, sys; sys.exit(int(pip.__version__.split(".")[0]) < 22)'; then
    hantune_pip install --upgrade pip || hantune_pip_failed " pip "
  fi
  hantune_install_torch
  hantune_say "[3/3] 安装 hantune 的依赖$words ..."
  (cd "$HANTUNE_ROOT" && hantune_pip install -e ".$extras" -c constraints.txt) || hantune_pip_failed "依赖"
  hantune_fingerprint "$level" >"$HANTUNE_STAMP.new"
  mv "$HANTUNE_STAMP.new" "$HANTUNE_STAMP"
  rm -f "$HANTUNE_UNFINISHED"
  trap - INT
  hantune_say "环境已就绪, 用时 $((SECONDS - HANTUNE_BEGAN)) 秒."
}

# hantune_env core|dev
hantune_env() {
  hantune_venv_python
  if hantune_ready "$1"; then
    return
  fi
  HANTUNE_BEGAN=$SECONDS
  # One installation at a time. The lock is on the root folder itself: it leaves no file and dies with its holder.
  if command -v flock >/dev/null 2>&1; then
    exec 9<"$HANTUNE_ROOT"
    if ! flock -n 9; then
      hantune_say "另一个进程正在安装环境, 等它结束 ..."
      flock -w 3600 9 || hantune_fail 6 "错误: 等了一小时, 另一个安装还没有结束." "办法: 结束那个进程, 再运行同一条命令"
    fi
  fi
  if ! hantune_ready "$1"; then
    hantune_install "$1" </dev/null
  fi
  exec 9<&-
}
