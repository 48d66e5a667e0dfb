#include "service/http_access.h"

#include <openssl/crypto.h>
#include <string.h>

#include "service/client_certificate.h"

static void digest_of(const char *token, unsigned char digest[SHA256_DIGEST_LENGTH]) {
    SHA256((const unsigned char *)token, strlen(token), digest);
}

void tpv_http_access_init(tpv_http_access_t *access, const char *token, const char *admin_token,
                          bool asks_certificate) {
    *access = (tpv_http_access_t){
        .has_token = token != NULL, .has_admin_token = admin_token != NULL, .asks_certificate = asks_certificate};
    if (token) digest_of(token, access->token);
    if (admin_token) digest_of(admin_token, access->admin_token);
}

/* What the certificate says of the client is judged anew for each request: it may expire on a connection. libmicrohttpd
 * only asks for one; refusing here and not in the handshake lets the client read why. */
static const char *judge_certificate(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info ? tpv_client_certificate_judge(info->tls_session) : "the connection has no TLS";
}

/* Compares digests: neither the token's length nor its first wrong byte shows in the time it takes. */
static tpv_http_right_t judge_token(const tpv_http_access_t *access, const char *header) {
    static const char scheme[] = "Bearer ";
    unsigned char digest[SHA256_DIGEST_LENGTH];
    digest_of(header && strncmp(header, scheme, sizeof scheme - 1) == 0 ? header + sizeof scheme - 1 : "", digest);
    bool fetches = access->has_token && CRYPTO_memcmp(digest, access->token, sizeof digest) == 0;
    bool is_admin = access->has_admin_token && CRYPTO_memcmp(digest, access->admin_token, sizeof digest) == 0;
    if (is_admin || fetches || (!access->has_token && !access->has_admin_token))
        return (tpv_http_right_t){.is_admin = is_admin};
    return (tpv_http_right_t){.refusal = "a bearer token is needed, and this is not the right one",
                              .lacks_token = true};
}

tpv_http_right_t tpv_http_access_judge(const tpv_http_access_t *access, struct MHD_Connection *connection,
                                       const char *path) {
    if (strcmp(path, "/healthz") == 0) return (tpv_http_right_t){0};
    const char *refusal = access->asks_certificate ? judge_certificate(connection) : NULL;
    if (refusal) return (tpv_http_right_t){.refusal = refusal};
    return judge_token(access, MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION));
}
