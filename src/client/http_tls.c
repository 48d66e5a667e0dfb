#include "client/http_tls.h"

#include <openssl/x509_vfy.h>
#include <string.h>

#include "base/error.h"

static CURLcode set_text(CURL *easy, CURLoption option, char *text) {
    if (!text) return CURLE_OK;
    struct curl_blob blob = {.data = text, .len = strlen(text), .flags = CURL_BLOB_COPY};
    return curl_easy_setopt(easy, option, &blob);
}

tpv_status_t tpv_http_tls_configure(CURL *easy, const tpv_tls_files_t *files) {
    CURLcode code = curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (files->ca) {
        /* Nobody else is trusted then: curl would look into its folder as well. */
        if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_CAINFO, NULL);
        if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
        if (code == CURLE_OK) code = set_text(easy, CURLOPT_CAINFO_BLOB, files->ca);
    }
    if (code == CURLE_OK) code = set_text(easy, CURLOPT_SSLCERT_BLOB, files->cert);
    if (code == CURLE_OK) code = set_text(easy, CURLOPT_SSLKEY_BLOB, files->key);
    if (code == CURLE_OK) return TPV_OK;
    if (code == CURLE_OUT_OF_MEMORY) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for TLS");
    return tpv_error_set(TPV_ERR_UNSUPPORTED, "this libcurl cannot do TLS as it is needed: %s",
                         curl_easy_strerror(code));
}

static tpv_status_t refused_certificate(CURL *easy, const char *address, const char *detail) {
    long why = X509_V_OK;
    curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &why);
    switch (why) {
    case X509_V_OK: /* curl compares the host itself, and says nothing of it here */
    case X509_V_ERR_UNSPECIFIED:
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return tpv_error_set(TPV_ERR_PERMISSION,
                             "source %s: its certificate is for another host: use a name or address that it has "
                             "(subjectAltName)",
                             address);
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return tpv_error_set(TPV_ERR_PERMISSION,
                             "source %s: its certificate has expired: renew it, or set this host's clock", address);
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return tpv_error_set(TPV_ERR_PERMISSION, "source %s: its certificate is not valid yet: compare both clocks",
                             address);
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return tpv_error_set(TPV_ERR_PERMISSION,
                             "source %s: its certificate comes from no authority that is trusted here: --tls-ca FILE "
                             "names the right one",
                             address);
    default:
        return tpv_error_set(TPV_ERR_PERMISSION, "source %s: its certificate is not good: %s", address,
                             why > 0 ? X509_verify_cert_error_string(why) : detail);
    }
}

bool tpv_http_tls_error(CURL *easy, const char *address, CURLcode result, const char *detail, tpv_status_t *status) {
    switch (result) {
    case CURLE_PEER_FAILED_VERIFICATION:
        *status = refused_certificate(easy, address, detail);
        return true;
    case CURLE_SSL_CONNECT_ERROR:
        if (strstr(detail, "wrong version number") || strstr(detail, "packet length too long") ||
            strstr(detail, "unknown protocol"))
            *status = tpv_error_set(TPV_ERR_PEER,
                                    "source %s: what answers there does not speak TLS: leave out https://, or give "
                                    "tpviewd --tls-cert",
                                    address);
        else
            *status = tpv_error_set(TPV_ERR_PEER, "source %s: no TLS connection: %s", address, detail);
        return true;
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
        *status = tpv_error_set(TPV_ERR_PEER, "source %s: no TLS connection: %s", address, detail);
        return true;
    default:
        return false;
    }
}
