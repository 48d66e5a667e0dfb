/* Cutting a view out of whole tensors that are at hand one at a time. */
#ifndef VIEW_SCATTER_H
#define VIEW_SCATTER_H

#include <stdbool.h>
#include <stddef.h>

#include "tpview/view.h"

/* Whether the view takes bytes of tensor `tensor` (its index in the artifact). */
bool tpv_view_uses(const tpv_view_t *view, size_t tensor);

/* Write to the dense form at `destination` all that the view takes of tensor `tensor`, whose bytes are at `bytes`. */
void tpv_view_scatter(const tpv_view_t *view, size_t tensor, const void *bytes, void *destination);

/* Write to the dense form at `destination` all that comes from no tensor: zeros and numbers. */
void tpv_view_scatter_fills(const tpv_view_t *view, void *destination);

#endif
