/* HTTP for the control API: listening sockets, bodies, tokens. What a request means is for api.h. */
#ifndef SERVICE_HTTP_SERVER_H
#define SERVICE_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/tls_files.h"
#include "service/body.h"
#include "tpview/status.h"

typedef struct tpv_http_server tpv_http_server_t;

/* A request while it is handled, and its connection. */
typedef struct tpv_exchange tpv_exchange_t;

typedef struct tpv_http_handler {
    void *user;
    /* Answer with tpv_exchange_answer or _fail before returning, or tpv_exchange_suspend. HTTP threads. */
    void (*handle)(void *user, tpv_exchange_t *exchange);
    /* The suspended exchange was resumed: answer now. */
    void (*resumed)(void *user, tpv_exchange_t *exchange);
    /* The connection closed: `attached` is what tpv_exchange_attach left there, not NULL. */
    void (*closed)(void *user, void *attached);
    /* Whether `attached` still needs its connection, though no request is under way. Any thread, under a lock. */
    bool (*needed)(const void *attached);
    tpv_body_account_t bodies;
} tpv_http_handler_t;

typedef struct tpv_http_options {
    const char *unix_path;   /* NULL: no Unix socket */
    const char *listen;      /* "HOST:PORT", port 0 picks one; NULL: no TCP */
    const char *token;       /* on TCP: to look and to fetch; NULL: none */
    const char *admin_token; /* on TCP: to publish and retire as well; NULL: none. With either, nothing goes without */
    bool may_be_open;        /* TCP beyond loopback */
    /* TLS on TCP, when it has a certificate; with `ca`, only for clients whose certificate comes from there. NULL: none
     */
    const tpv_tls_files_t *tls;
    double idle_s;        /* how long a connection may wait between requests */
    unsigned most_served; /* requests that may be suspended at once */
    tpv_http_handler_t handler;
} tpv_http_options_t;

/* Listen and serve. A Unix socket of mode 0600 replaces a dead one at its path, never a live one. TPV_ERR_ARGUMENT,
 * TPV_ERR_PERMISSION for an open TCP address without token, TPV_ERR_SYSTEM. What `options` names outlives the server.
 */
tpv_status_t tpv_http_server_open(const tpv_http_options_t *options, tpv_http_server_t **server);
/* "unix:PATH" and "HOST:PORT" (with TLS "https://HOST:PORT") with the port that was picked, separated by a space. */
const char *tpv_http_server_addresses(const tpv_http_server_t *server);
/* No new connections from here on. */
void tpv_http_server_quiesce(tpv_http_server_t *server);
/* Requests that are not answered to their last byte. Any thread. */
unsigned tpv_http_server_pending(const tpv_http_server_t *server);
/* No exchange may be suspended. NULL is allowed. */
void tpv_http_server_close(tpv_http_server_t *server);

const char *tpv_exchange_method(const tpv_exchange_t *exchange);
const char *tpv_exchange_path(const tpv_exchange_t *exchange);
const char *tpv_exchange_body(const tpv_exchange_t *exchange, size_t *length);
/* The body is not needed any more. */
void tpv_exchange_drop_body(tpv_exchange_t *exchange);
/* Who asks: by the Unix socket, or with the token for that, an administrator. */
bool tpv_exchange_is_admin(const tpv_exchange_t *exchange);
/* The client's address when it came by TCP, else NULL. Valid as long as the exchange. */
const struct sockaddr *tpv_exchange_peer(const tpv_exchange_t *exchange);
int tpv_exchange_descriptor(const tpv_exchange_t *exchange);
/* What the handler keeps for the exchange (user), and for its connection (attached). */
void tpv_exchange_set_user(tpv_exchange_t *exchange, void *user);
void *tpv_exchange_user(const tpv_exchange_t *exchange);
/* Returns what was attached before. */
void *tpv_exchange_attach(tpv_exchange_t *exchange, void *attached);

/* Suspend until tpv_exchange_resume, which any thread may call once. */
void tpv_exchange_suspend(tpv_exchange_t *exchange);
void tpv_exchange_resume(tpv_exchange_t *exchange);

/* Answer 200 with `text`, which is freed. A long one counts as bodies do until the client has read it; without room for
 * it the answer is TPV_ERR_NO_MEMORY. */
void tpv_exchange_answer(tpv_exchange_t *exchange, const char *type, char *text);
/* Answer 200 with `text`, which its `keeper` keeps until `release`, called once and by any thread. */
void tpv_exchange_answer_kept(tpv_exchange_t *exchange, const char *type, const char *text, size_t bytes,
                              void (*release)(void *keeper), void *keeper);
/* Answer with the HTTP code that fits `status`, and {"error":{"status":…,"message":…}}. */
void tpv_exchange_fail(tpv_exchange_t *exchange, tpv_status_t status, const char *message);

#endif
