/* The files of TLS, in PEM: certificates and a private key, read and judged before anything is done with them. */
#ifndef BASE_TLS_FILES_H
#define BASE_TLS_FILES_H

#include <stdbool.h>

#include "tpview/status.h"

/* Texts as the files have them, or NULL. */
typedef struct tpv_tls_files {
    char *ca;         /* certificates of the authorities that the other side's certificate must come from */
    char *cert;       /* our own certificate, then those between it and its authority */
    char *key;        /* its private key, without a pass phrase */
    bool has_expired; /* our certificate: who checks it will refuse */
} tpv_tls_files_t;

/* Read what the paths name, each NULL for none; `cert` and `key` come together. TPV_ERR_ARGUMENT for one of the two
 * alone, TPV_ERR_NOT_FOUND, TPV_ERR_PERMISSION when others can read the key, TPV_ERR_FORMAT for what is no such file
 * and for a key that is not the certificate's, TPV_ERR_SYSTEM. The caller clears *files in either case. */
tpv_status_t tpv_tls_files_read(const char *ca, const char *cert, const char *key, tpv_tls_files_t *files);
/* The key does not stay in memory. */
void tpv_tls_files_clear(tpv_tls_files_t *files);

#endif
