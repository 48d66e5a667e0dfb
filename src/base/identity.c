#include "base/identity.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/error.h"

#define IDENTITY_BYTES 16

tpv_identity_t tpv_identity_begin(const char *domain) {
    tpv_identity_t identity = {.context = EVP_MD_CTX_new()};
    if (identity.context && EVP_DigestInit_ex(identity.context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(identity.context);
        identity.context = NULL;
    }
    tpv_identity_add_text(&identity, domain);
    return identity;
}

void tpv_identity_add(tpv_identity_t *identity, const void *bytes, size_t length) {
    if (!identity->context || EVP_DigestUpdate(identity->context, bytes, length) == 1) return;
    EVP_MD_CTX_free(identity->context);
    identity->context = NULL;
}

void tpv_identity_add_u64(tpv_identity_t *identity, uint64_t number) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(number >> (8 * i));
    tpv_identity_add(identity, bytes, sizeof bytes);
}

void tpv_identity_add_text(tpv_identity_t *identity, const char *text) {
    size_t length = strlen(text);
    tpv_identity_add_u64(identity, length);
    tpv_identity_add(identity, text, length);
}

tpv_status_t tpv_identity_end(tpv_identity_t *identity, char digits[TPV_IDENTITY_CHARS]) {
    static const char hex[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    bool good = identity->context && EVP_DigestFinal_ex(identity->context, digest, NULL) == 1;
    EVP_MD_CTX_free(identity->context);
    identity->context = NULL;
    digits[0] = '\0';
    if (!good) return tpv_error_set(TPV_ERR_NO_MEMORY, "libcrypto could not compute a SHA-256 digest");
    for (int i = 0; i < IDENTITY_BYTES; i++) {
        digits[2 * i] = hex[digest[i] >> 4];
        digits[2 * i + 1] = hex[digest[i] & 15];
    }
    digits[2 * IDENTITY_BYTES] = '\0';
    return TPV_OK;
}

bool tpv_identity_valid(const char *text) {
    return strlen(text) == TPV_IDENTITY_CHARS - 1 && strspn(text, "0123456789abcdef") == TPV_IDENTITY_CHARS - 1;
}
