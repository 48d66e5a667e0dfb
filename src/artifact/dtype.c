#include <string.h>

#include "base/error.h"
#include "tpview/artifact.h"

/* Names and sizes: Dtype and Dtype::bitsize in safetensors/src/tensor.rs, version 0.8.0. */
static const struct {
    const char *name;
    unsigned bits;
} dtypes[TPV_DTYPE_COUNT] = {
    [TPV_DTYPE_BOOL] = {"BOOL", 8},
    [TPV_DTYPE_F4] = {"F4", 4},
    [TPV_DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [TPV_DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [TPV_DTYPE_U8] = {"U8", 8},
    [TPV_DTYPE_I8] = {"I8", 8},
    [TPV_DTYPE_F8_E5M2] = {"F8_E5M2", 8},
    [TPV_DTYPE_F8_E4M3] = {"F8_E4M3", 8},
    [TPV_DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [TPV_DTYPE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [TPV_DTYPE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [TPV_DTYPE_I16] = {"I16", 16},
    [TPV_DTYPE_U16] = {"U16", 16},
    [TPV_DTYPE_F16] = {"F16", 16},
    [TPV_DTYPE_BF16] = {"BF16", 16},
    [TPV_DTYPE_I32] = {"I32", 32},
    [TPV_DTYPE_U32] = {"U32", 32},
    [TPV_DTYPE_F32] = {"F32", 32},
    [TPV_DTYPE_C64] = {"C64", 64},
    [TPV_DTYPE_F64] = {"F64", 64},
    [TPV_DTYPE_I64] = {"I64", 64},
    [TPV_DTYPE_U64] = {"U64", 64},
};

unsigned tpv_dtype_bits(tpv_dtype_t dtype) {
    return (unsigned)dtype < TPV_DTYPE_COUNT ? dtypes[dtype].bits : 0;
}

const char *tpv_dtype_name(tpv_dtype_t dtype) {
    return (unsigned)dtype < TPV_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

tpv_status_t tpv_dtype_from_name(const char *name, tpv_dtype_t *dtype) {
    for (int i = 0; i < TPV_DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype = (tpv_dtype_t)i;
            return TPV_OK;
        }
    }
    return tpv_error_set(TPV_ERR_FORMAT,
                         "unknown dtype \"%.100s\": expected one of the safetensors format, such as BF16", name);
}
