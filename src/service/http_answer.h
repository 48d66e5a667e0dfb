/* Answers that wait for their readers, and what they take of the budget. */
#ifndef SERVICE_HTTP_ANSWER_H
#define SERVICE_HTTP_ANSWER_H

#include <microhttpd.h>

#include "service/body.h"
#include "tpview/status.h"

/* A response of `text`, which is freed with it or now. More than TPV_BODY_SMALL bytes are of `account`, which outlives
 * it, until it has been sent or its connection is closed. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_http_answer_make(const tpv_body_account_t *account, char *text, struct MHD_Response **response);

#endif
