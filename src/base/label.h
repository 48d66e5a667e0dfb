/* How an artifact is named on a command line and on the wire: NAME@VERSION=DIR. */
#ifndef BASE_LABEL_H
#define BASE_LABEL_H

#include <stddef.h>

#include "tpview/status.h"

#define TPV_LABEL_MAX 96 /* NAME@VERSION without the final zero */

/* Where the parts of "NAME@VERSION=DIR" stand: NAME at 0, VERSION behind the '@', DIR behind the '='. NAME and VERSION
 * are letters, digits, '.', '_' and '-', NAME@VERSION at most TPV_LABEL_MAX long, DIR not empty: TPV_ERR_ARGUMENT
 * otherwise. */
tpv_status_t tpv_label_split(const char *definition, size_t *at, size_t *equals);

#endif
