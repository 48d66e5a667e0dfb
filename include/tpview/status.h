/*
 * tpview status codes and error messages.
 *
 * Every public call that can fail returns a tpv_status_t. When it is not TPV_OK, tpv_error_message() gives one line
 * for a person: what failed, on which object, why, and what was expected. Programs decide on the enum, never on
 * the text.
 */
#ifndef TPVIEW_STATUS_H
#define TPVIEW_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#define TPV_API __attribute__((visibility("default")))

typedef enum tpv_status {
    TPV_OK = 0,
    TPV_ERR_ARGUMENT,    /* the caller passed something out of its documented range */
    TPV_ERR_NOT_FOUND,   /* no such artifact, tensor, file or source */
    TPV_ERR_FORMAT,      /* a file or message from outside does not follow its format */
    TPV_ERR_PLAN,        /* the wanted slices cannot be cut as asked: uneven, missing, overlapping */
    TPV_ERR_UNSUPPORTED, /* a capability that the plugin, the peer or this build does not have */
    TPV_ERR_SYSTEM,      /* the operating system refused; the message has errno's text */
    TPV_ERR_NO_MEMORY,   /* memory or the configured budget is used up */
    TPV_ERR_NO_SPACE,    /* a disk or the shared-memory table is full */
    TPV_ERR_NET,         /* the net plugin reported a local failure */
    TPV_ERR_PEER,        /* the other end closed, died or reported a failure of its own */
    TPV_ERR_PROTOCOL,    /* the other end sent what the protocol does not allow */
    TPV_ERR_DIGEST,      /* bytes arrived, but not the ones that were sent */
    TPV_ERR_DEADLINE,    /* the caller's deadline passed; final, never followed by a fallback */
    TPV_ERR_REFUSED,     /* the source is closing, draining or at a configured limit */
    TPV_ERR_STALE,       /* a handle of an earlier generation */
    TPV_ERR_PERMISSION,  /* a token, an owner or a file mode forbids it */
    TPV_ERR_CANCELLED,   /* the caller or an operator asked for the end */
    TPV_ERR_INTERNAL,    /* a broken promise inside tpview: please report it */
    TPV_STATUS_COUNT
} tpv_status_t;

/* The enum's name in lower case without prefix, such as "not_found". Static storage; any value is accepted. */
TPV_API const char *tpv_status_name(tpv_status_t status);

/* The calling thread's latest error, one line without a newline; "" when there was none. Valid until the thread's
 * next failing tpview call. */
TPV_API const char *tpv_error_message(void);

#ifdef __cplusplus
}
#endif
#endif
