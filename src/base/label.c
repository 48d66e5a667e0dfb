#include "base/label.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"

static bool is_word(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i])) return false;
    return length > 0;
}

tpv_status_t tpv_label_split(const char *definition, size_t *at, size_t *equals) {
    *at = strcspn(definition, "@=");
    *equals = strcspn(definition, "=");
    if (definition[*at] == '@' && definition[*equals] == '=' && definition[*equals + 1] && *equals <= TPV_LABEL_MAX &&
        is_word(definition, *at) && is_word(definition + *at + 1, *equals - *at - 1))
        return TPV_OK;
    return tpv_error_set(TPV_ERR_ARGUMENT,
                         "\"%s\": expected NAME@VERSION=DIR, NAME and VERSION of letters, digits, '.', '_', '-' and "
                         "together at most %d long",
                         definition, TPV_LABEL_MAX - 1);
}
