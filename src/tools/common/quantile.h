#ifndef TOOLS_COMMON_QUANTILE_H
#define TOOLS_COMMON_QUANTILE_H

/* `part` (0 to 1) of all values are at most this, between two values in proportion: 0.5 is the median. 0 of no values.
 * Sorts them. */
double tpv_quantile(double *values, unsigned count, double part);

#endif
