#include "base/id.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"

tpv_status_t tpv_id_random(uint8_t id[TPV_ID_BYTES]) {
    /* Requests of up to 256 bytes are never cut short once the kernel's pool is initialised (getrandom(2)). */
    if (getrandom(id, TPV_ID_BYTES, 0) != TPV_ID_BYTES)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot get random bytes");
    return TPV_OK;
}

void tpv_hex_encode(const uint8_t *bytes, size_t length, char *text) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * length] = '\0';
}

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

bool tpv_hex_decode(const char *text, size_t length, uint8_t *bytes) {
    if (strlen(text) != 2 * length) return false;
    for (size_t i = 0; i < length; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
