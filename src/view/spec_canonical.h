/* The one form that all equal specs share, so that equal views have equal text and equal view_ids. */
#ifndef VIEW_SPEC_CANONICAL_H
#define VIEW_SPEC_CANONICAL_H

#include "view/spec.h"

/*
 * Bring a checked spec into canonical form: in each piece dims of size 1 are dropped, the others sorted by falling
 * destination stride and merged where both sides allow it; pieces without elements are dropped, the others sorted by
 * destination and merged where one goes on where the other ends; aliases are sorted by name. The order of outputs is
 * part of the view and stays.
 */
void tpv_spec_canonicalise(tpv_spec_t *spec);

/* Drop, sort and merge the dims of one piece. False when it has no elements. */
bool tpv_piece_canonicalise(tpv_piece_t *piece);

#endif
