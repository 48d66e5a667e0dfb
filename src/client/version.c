#include "tpview/tpview.h"

const char *tpv_version(void) {
    return "0.1.0";
}
