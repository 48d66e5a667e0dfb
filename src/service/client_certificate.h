/* The certificates of clients on TLS connections. */
#ifndef SERVICE_CLIENT_CERTIFICATE_H
#define SERVICE_CLIENT_CERTIFICATE_H

#include <gnutls/gnutls.h>

/* Why the client of `session`, whose handshake is done, is not one that an authority of the session's trust list
 * vouches for: a sentence in static storage. NULL when it is one. */
const char *tpv_client_certificate_judge(gnutls_session_t session);

#endif
