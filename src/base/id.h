/* 128-bit ids and digests as 32 lower-case hex digits, and hex text of other bytes from outside. */
#ifndef BASE_ID_H
#define BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

#define TPV_ID_BYTES 16
#define TPV_ID_TEXT 33

/* Random bytes from the kernel: not to be guessed. TPV_ERR_SYSTEM. */
tpv_status_t tpv_id_random(uint8_t id[TPV_ID_BYTES]);

/* Write 2 * `length` lower-case digits and a zero. */
void tpv_hex_encode(const uint8_t *bytes, size_t length, char *text);
/* True when `text` is exactly 2 * `length` lower-case hex digits. */
bool tpv_hex_decode(const char *text, size_t length, uint8_t *bytes);

#endif
