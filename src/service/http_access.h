/* Who may ask what over TCP: tokens, and with TLS certificates of clients. */
#ifndef SERVICE_HTTP_ACCESS_H
#define SERVICE_HTTP_ACCESS_H

#include <microhttpd.h>
#include <openssl/sha.h>
#include <stdbool.h>

typedef struct tpv_http_access {
    bool has_token, has_admin_token, asks_certificate;
    unsigned char token[SHA256_DIGEST_LENGTH], admin_token[SHA256_DIGEST_LENGTH];
} tpv_http_access_t;

typedef struct tpv_http_right {
    const char *refusal; /* why nothing is told, in static storage; NULL: look and fetch */
    bool lacks_token;    /* that is why */
    bool is_admin;       /* publish and retire as well */
} tpv_http_right_t;

/* Each token NULL for none. */
void tpv_http_access_init(tpv_http_access_t *access, const char *token, const char *admin_token, bool asks_certificate);
/* For a request whose headers are read. */
tpv_http_right_t tpv_http_access_judge(const tpv_http_access_t *access, struct MHD_Connection *connection,
                                       const char *path);

#endif
