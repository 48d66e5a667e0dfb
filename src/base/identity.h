/*
 * Identities: SHA-256 over a canonical serialisation, cut to its first 16 bytes and written as 32 lower-case hex
 * digits.
 *
 * The domain (a word with a version number) goes in front, so two kinds of identity never collide, and every field has
 * a fixed width or its length before it, so two different lists of fields never serialise alike. Failures stick: add
 * without checking, and read the outcome from tpv_identity_end.
 */
#ifndef BASE_IDENTITY_H
#define BASE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

#define TPV_IDENTITY_CHARS 33 /* 32 hex digits and a zero */

struct evp_md_ctx_st;
typedef struct tpv_identity {
    struct evp_md_ctx_st *context; /* OpenSSL's; NULL after a failure */
} tpv_identity_t;

/* Begin an identity of `domain`, such as "tpview-index-1". Must be ended with tpv_identity_end. */
tpv_identity_t tpv_identity_begin(const char *domain);

/* Bytes of a width that the domain fixes. */
void tpv_identity_add(tpv_identity_t *identity, const void *bytes, size_t length);
/* A number, as 8 bytes little-endian. */
void tpv_identity_add_u64(tpv_identity_t *identity, uint64_t number);
/* Text of any length, with its length in front. */
void tpv_identity_add_text(tpv_identity_t *identity, const char *text);

/* Finish, free what the identity holds and write the digits. TPV_ERR_NO_MEMORY if libcrypto failed on the way. */
tpv_status_t tpv_identity_end(tpv_identity_t *identity, char digits[TPV_IDENTITY_CHARS]);

/* Whether `text` is 32 lower-case hex digits and nothing else. */
bool tpv_identity_valid(const char *text);

#endif
