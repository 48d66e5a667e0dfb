#include "base/tls_files.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/small_file.h"

#define FILE_MAX ((size_t)4 << 20) /* all authorities of a system are some 200 KiB */

/* Certificates are read to the end of the file; *first is the caller's. */
static tpv_status_t judge_certificates(const char *path, const char *text, size_t length, X509 **first) {
    BIO *bio = BIO_new_mem_buf(text, (int)length);
    size_t count = 0;
    *first = NULL;
    for (X509 *next; bio && (next = PEM_read_bio_X509(bio, NULL, NULL, NULL)); count++) {
        if (count == 0)
            *first = next;
        else
            X509_free(next);
    }
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    if (count > 0 && at_end) return TPV_OK;
    if (at_end)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: expected certificates in PEM (-----BEGIN CERTIFICATE-----)", path);
    return tpv_error_set(TPV_ERR_FORMAT, "%s: its certificate %zu cannot be read", path, count + 1);
}

/* OpenSSL would ask at the terminal. */
static int no_pass_phrase(char *buffer, int size, int writing, void *user) {
    (void)buffer, (void)size, (void)writing;
    *(bool *)user = true;
    return -1;
}

static tpv_status_t judge_key(const char *path, const char *text, size_t length, EVP_PKEY **key) {
    bool encrypted = false;
    BIO *bio = BIO_new_mem_buf(text, (int)length);
    *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_pass_phrase, &encrypted) : NULL;
    ERR_clear_error();
    BIO_free(bio);
    if (*key) return TPV_OK;
    if (encrypted)
        return tpv_error_set(TPV_ERR_FORMAT,
                             "%s: the key needs a pass phrase: expected one without (openssl pkey writes it)", path);
    return tpv_error_set(TPV_ERR_FORMAT, "%s: expected a private key in PEM (-----BEGIN PRIVATE KEY-----)", path);
}

static tpv_status_t read_certificates(const char *path, char **text, X509 **first) {
    size_t length = 0;
    TPV_TRY(tpv_small_file_read(path, FILE_MAX, false, text, &length));
    return judge_certificates(path, *text, length, first);
}

static tpv_status_t read_pair(const char *cert, const char *key, tpv_tls_files_t *files) {
    X509 *certificate = NULL;
    EVP_PKEY *pair = NULL;
    size_t length = 0;
    tpv_status_t status = read_certificates(cert, &files->cert, &certificate);
    if (status == TPV_OK) status = tpv_small_file_read(key, FILE_MAX, true, &files->key, &length);
    if (status == TPV_OK) status = judge_key(key, files->key, length, &pair);
    if (status == TPV_OK && X509_check_private_key(certificate, pair) != 1)
        status = tpv_error_set(TPV_ERR_FORMAT, "%s: not the key of the first certificate in %s", key, cert);
    if (status == TPV_OK) files->has_expired = X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0;
    ERR_clear_error();
    EVP_PKEY_free(pair);
    X509_free(certificate);
    return status;
}

tpv_status_t tpv_tls_files_read(const char *ca, const char *cert, const char *key, tpv_tls_files_t *files) {
    *files = (tpv_tls_files_t){0};
    if (!cert != !key)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s %s: a certificate and its private key are given together",
                             cert ? "certificate" : "private key", cert ? cert : key);
    if (ca) {
        X509 *first = NULL;
        tpv_status_t status = read_certificates(ca, &files->ca, &first);
        X509_free(first);
        TPV_TRY(status);
    }
    return cert ? read_pair(cert, key, files) : TPV_OK;
}

void tpv_tls_files_clear(tpv_tls_files_t *files) {
    if (files->key) OPENSSL_cleanse(files->key, strlen(files->key));
    free(files->ca);
    free(files->cert);
    free(files->key);
    *files = (tpv_tls_files_t){0};
}
