#!/bin/sh
# Install the locked packages into /opt/venv, every hash checked, and take out what no run needs.
#   packages.sh cuda    torch with its CUDA libraries
#   packages.sh cpu     torch and torchvision of the same versions from PyTorch's own index of CPU
#                       wheels, which has other files than the lock: those two have no hash here
set -eu
sed -n '/^uv==/,/[^\\]$/p' requirements.txt > uv.txt
/opt/uv/bin/pip install --no-cache-dir --quiet --disable-pip-version-check --require-hashes -r uv.txt
install() {
    /opt/uv/bin/uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python "$@"
}
cd /build
case $1 in
cuda)
    # uv is a tool for building; triton is torch.compile's compiler, which this package never calls.
    awk '/^[^ #]/ { keep = !/^(uv|triton)==/ } keep' requirements.txt > locked.txt
    install --no-deps --require-hashes -r locked.txt ;;
cpu)
    awk '/^[^ #]/ { keep = !/^(uv|torch|torchvision|triton|cuda-.*|nvidia-.*)==/ } keep' \
        requirements.txt > locked.txt
    install --no-deps --require-hashes -r locked.txt
    install --no-deps --torch-backend=cpu \
        $(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ;]*\).*/\1/p' requirements.txt) ;;
*)
    echo "TORCH must be cuda or cpu, got $1" >&2
    exit 2 ;;
esac

# Headers, static libraries and the packages' own tests; of the CUDA libraries the linear algebra
# over several GPUs, which torch does not link, and code for kernels to be compiled with.
cd /opt/venv/lib/python3*/site-packages
rm -rf torch/include nvidia/*/include nvidia/*/lib/libcusolverMg.so.* nvidia/nvshmem/lib/*.bc
find . -name '*.a' -delete
for package in pandas numpy scipy sklearn matplotlib pyarrow sympy; do
    find "./$package" -type d -name tests -prune -exec rm -rf {} +
done
/opt/venv/bin/python -c 'import matplotlib, mlflow, optuna, pandas, sklearn.linear_model, torchvision'
