#include "service/client_certificate.h"

#include <gnutls/x509.h>

const char *tpv_client_certificate_judge(gnutls_session_t session) {
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (void *)GNUTLS_KP_TLS_WWW_CLIENT};
    unsigned faults = 0;
    int error = gnutls_certificate_verify_peers(session, &purpose, 1, &faults);
    if (error == GNUTLS_E_NO_CERTIFICATE_FOUND)
        return "a client certificate is needed: --tls-cert and --tls-key of the client";
    if (error != GNUTLS_E_SUCCESS) return "the client certificate cannot be checked";
    if (faults & GNUTLS_CERT_EXPIRED) return "the client certificate has expired: renew it";
    if (faults & GNUTLS_CERT_NOT_ACTIVATED) return "the client certificate is not valid yet: compare the clocks";
    if (faults & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNATURE_FAILURE))
        return "the client certificate comes from no authority of the service's --tls-client-ca";
    if (faults & GNUTLS_CERT_PURPOSE_MISMATCH)
        return "the client certificate is not for clients: its extendedKeyUsage lacks clientAuth";
    if (faults & (GNUTLS_CERT_SIGNER_NOT_CA | GNUTLS_CERT_SIGNER_CONSTRAINTS_FAILURE))
        return "the client certificate is signed by one that may not sign certificates";
    if (faults & GNUTLS_CERT_INSECURE_ALGORITHM)
        return "the client certificate is signed with an algorithm that is not secure any more";
    return faults == 0 ? NULL : "the client certificate is not good";
}
