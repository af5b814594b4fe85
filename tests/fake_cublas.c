/* cuBLAS in the host's memory, as far as Cublas asks for it. The stream's number is the status that the next product gives. */
#include <stdint.h>

static intptr_t stream;

int cublasCreate_v2(void **handle) { *handle = &stream; return 0; }
int cublasDestroy_v2(void *handle) { return handle == &stream ? 0 : 1; }
int cublasSetStream_v2(void *handle, void *given) { stream = (intptr_t)given; return handle == &stream ? 0 : 1; }

/* float32 alone, column by column as cuBLAS has it */
int cublasGemmEx(void *handle, int turn_a, int turn_b, int m, int n, int k, const float *alpha, const float *a, int kind_a,
                 int lda, const float *b, int kind_b, int ldb, const float *beta, float *c, int kind_c, int ldc,
                 int compute, int algorithm) {
    if (handle != &stream || stream || turn_a || turn_b || kind_a || kind_b || kind_c || compute != 68 || algorithm != -1)
        return stream ? (int)stream : 7;
    for (int row = 0; row < m; row++)
        for (int column = 0; column < n; column++) {
            float sum = 0;
            for (int i = 0; i < k; i++) sum += a[row + i * lda] * b[i + column * ldb];
            c[row + column * ldc] = *alpha * sum + *beta * c[row + column * ldc];
        }
    return 0;
}
