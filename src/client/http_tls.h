/* TLS of a connection to a control API. */
#ifndef CLIENT_HTTP_TLS_H
#define CLIENT_HTTP_TLS_H

#include <curl/curl.h>
#include <stdbool.h>

#include "base/tls_files.h"

/* Check the service by `files->ca` alone, else by the authorities that this host trusts, and show it our certificate,
 * if there is one. `files` need not outlive the call. TPV_ERR_UNSUPPORTED for a libcurl that cannot, TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_http_tls_configure(CURL *easy, const tpv_tls_files_t *files);

/* Why a connection to `address` failed, when that has to do with TLS: *status, and its message. False for all else.
 * `detail` is curl's own text. */
bool tpv_http_tls_error(CURL *easy, const char *address, CURLcode result, const char *detail, tpv_status_t *status);

#endif
