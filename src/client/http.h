/* One keep-alive HTTP connection to a service's control API, driven without blocking. Belongs to one thread at a time.
 */
#ifndef CLIENT_HTTP_H
#define CLIENT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/fetch.h"

#define TPV_HTTP_MAX_RESPONSE (256u << 20) /* a manifest of TPV_MAX_TENSORS tensors fits */

typedef struct tpv_http tpv_http_t;

/* As tpv_source_open. */
tpv_status_t tpv_http_open(const char *address, const tpv_source_options_t *options, tpv_http_t **http);
/* Closes the connection. NULL is allowed. */
void tpv_http_close(tpv_http_t *http);
const char *tpv_http_address(const tpv_http_t *http);

/* Begin a request; `body` (NULL: none) must stay valid until it is done. One at a time. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_http_start(tpv_http_t *http, const char *method, const char *path, const char *body);
/* Move it on. When *done: TPV_OK for a 2xx answer, else what the service's error says. TPV_ERR_PEER when the connection
 * cannot be made or was lost, TPV_ERR_PERMISSION when the socket is not for this user or the service's certificate is
 * not to be trusted, TPV_ERR_PROTOCOL for an answer that is not of this API. */
tpv_status_t tpv_http_advance(tpv_http_t *http, bool *done);
/* Whether the error of the finished request is the service's own word. */
bool tpv_http_told(const tpv_http_t *http);
/* The finished request's body, with a final zero; valid until the next start. */
const char *tpv_http_body(const tpv_http_t *http, size_t *length);
/* The connection's descriptor, or -1. */
int tpv_http_descriptor(const tpv_http_t *http);
/* Break off a request that is not done; the connection is closed. */
void tpv_http_cancel(tpv_http_t *http);

/* start and advance until done or `deadline` (base/clock.h; TPV_ERR_DEADLINE). */
tpv_status_t tpv_http_call(tpv_http_t *http, const char *method, const char *path, const char *body, int64_t deadline);

#endif
