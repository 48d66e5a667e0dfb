#include "tpview/tpview.h"

const char *tpv_version(void) {
    return "0.1.0";
}

uint32_t tpv_abi_version(void) {
    return TPV_ABI_VERSION;
}
