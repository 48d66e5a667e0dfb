#include "service/http_answer.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

typedef struct {
    const tpv_body_account_t *account;
    size_t bytes; /* of the account */
    char *text;
} held_t;

static void drop(void *user) {
    held_t *held = user;
    if (held->bytes > 0) held->account->unreserve(held->account->user, held->bytes);
    free(held->text);
    free(held);
}

tpv_status_t tpv_http_answer_make(const tpv_body_account_t *account, char *text, struct MHD_Response **response) {
    size_t length = strlen(text), bytes = length > TPV_BODY_SMALL ? length : 0;
    held_t *held = malloc(sizeof *held);
    bool has_room = held && (bytes == 0 || account->reserve(account->user, bytes));
    if (!has_room) {
        free(held);
        free(text);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "an answer of %zu bytes: too many are being read", length);
    }
    *held = (held_t){account, bytes, text};
    *response = MHD_create_response_from_buffer_with_free_callback_cls(length, text, drop, held);
    if (*response) return TPV_OK;
    drop(held);
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for an answer");
}
