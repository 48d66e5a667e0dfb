#include "tools/common/quantile.h"

#include <stdlib.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double tpv_quantile(double *values, unsigned count, double part) {
    if (count == 0) return 0;
    qsort(values, count, sizeof *values, compare);
    double place = part * (count - 1);
    unsigned below = (unsigned)place;
    if (below + 1 >= count) return values[count - 1];
    return values[below] + (place - below) * (values[below + 1] - values[below]);
}
