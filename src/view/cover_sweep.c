#include <stdlib.h>
#include <string.h>

#include "view/cover_group.h"

/* Digits: more different strides than this in one group are left to the bitmap. */
#define MAX_DIGITS 12

typedef struct {
    uint64_t low[MAX_DIGITS], high[MAX_DIGITS]; /* of each digit: first value, and one behind the last */
    size_t piece;
} box_t;

typedef struct {
    unsigned digits;
    uint64_t weight[MAX_DIGITS]; /* elements that a step of this digit stands for; weight[0] is 1 */
    uint64_t radix[MAX_DIGITS];  /* how many values a digit has */
    uint64_t low, length;        /* of the group */

    box_t *boxes;
    size_t box_count, box_room, box_limit;

    uint32_t *lists[MAX_DIGITS];  /* the boxes that the sweep of a digit got */
    uint32_t *active[MAX_DIGITS]; /* those of them that cross the present segment */
    tpv_cover_budget_t *budget;
    tpv_cover_fault_t *fault;
} sweep_t;

static int by_value(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* Choose the digits: 1 and every stride, each dividing the next. */
static bool choose_digits(sweep_t *sweep, const tpv_piece_t *pieces, size_t count) {
    sweep->weight[0] = 1;
    sweep->digits = 1;
    for (size_t i = 0; i < count; i++) {
        tpv_place_t place;
        tpv_place_of(&pieces[i], &place);
        for (uint32_t k = 0; k < place.levels; k++) {
            unsigned d = 0;
            while (d < sweep->digits && sweep->weight[d] != place.level[k].stride)
                d++;
            if (d < sweep->digits) continue;
            if (d == MAX_DIGITS) return false;
            sweep->weight[sweep->digits++] = place.level[k].stride;
        }
    }
    qsort(sweep->weight, sweep->digits, sizeof *sweep->weight, by_value);
    for (unsigned d = 0; d + 1 < sweep->digits; d++) {
        if (sweep->weight[d + 1] % sweep->weight[d] != 0) return false;
        sweep->radix[d] = sweep->weight[d + 1] / sweep->weight[d];
    }
    uint64_t top = sweep->weight[sweep->digits - 1];
    sweep->radix[sweep->digits - 1] = (sweep->length - 1) / top + 1;
    return true;
}

static tpv_cover_verdict_t add_box(sweep_t *sweep, const box_t *box) {
    if (sweep->box_count == sweep->box_limit) return TPV_COVER_UNDECIDED;
    if (sweep->box_count == sweep->box_room) {
        size_t room = sweep->box_room * 2;
        box_t *larger = reallocarray(sweep->boxes, room, sizeof *larger);
        if (!larger) return TPV_COVER_NO_MEMORY;
        sweep->boxes = larger;
        sweep->box_room = room;
    }
    sweep->boxes[sweep->box_count++] = *box;
    return TPV_COVER_PROVEN;
}

/*
 * Cut a place into boxes, from the smallest digit up. `rest` is the offset in units of the present digit's weight;
 * `place` has its remaining levels from `level` on. A level that runs beyond its digit becomes up to three boxes: the
 * tail of the digit that it begins in, whole turns of the digit, and the head of the last turn.
 */
static tpv_cover_verdict_t cut_place(sweep_t *sweep, const tpv_place_t *place, uint32_t level, unsigned digit,
                                     uint64_t rest, box_t *box) {
    if (digit == sweep->digits) {
        /* A level that found no digit has the stride of the one before: some element is written twice. */
        if (level < place->levels || rest > 0) return TPV_COVER_UNDECIDED;
        return add_box(sweep, box);
    }
    uint64_t radix = sweep->radix[digit];
    uint64_t value = rest % radix, carry = rest / radix;
    uint64_t count = 1;
    uint32_t next = level;
    if (level < place->levels && place->level[level].stride == sweep->weight[digit]) count = place->level[next++].count;

    box->low[digit] = value;
    if (count <= radix - value) {
        box->high[digit] = value + count;
        return cut_place(sweep, place, next, digit + 1, carry, box);
    }
    if (value > 0) {
        box->high[digit] = radix;
        tpv_cover_verdict_t verdict = cut_place(sweep, place, next, digit + 1, carry, box);
        if (verdict != TPV_COVER_PROVEN) return verdict;
        count -= radix - value;
        carry++;
    }
    uint64_t turns = count / radix, tail = count % radix;
    box->low[digit] = 0;
    if (turns > 0) {
        box->high[digit] = radix;
        tpv_place_t higher = *place;
        uint32_t from = next;
        if (turns > 1) {
            if (digit + 1 == sweep->digits) return TPV_COVER_UNDECIDED;
            if (next < place->levels && place->level[next].stride == sweep->weight[digit + 1])
                return TPV_COVER_UNDECIDED;
            from = next - 1;
            higher.level[from] = (struct tpv_place_level){.stride = sweep->weight[digit + 1], .count = turns};
        }
        tpv_cover_verdict_t verdict = cut_place(sweep, &higher, from, digit + 1, carry, box);
        if (verdict != TPV_COVER_PROVEN) return verdict;
    }
    if (tail == 0) return TPV_COVER_PROVEN;
    box->low[digit] = 0;
    box->high[digit] = tail;
    return cut_place(sweep, place, next, digit + 1, carry + turns, box);
}

typedef struct {
    const box_t *boxes;
    unsigned digit;
} order_t;

static int by_low(const void *left, const void *right, void *user) {
    const order_t *order = user;
    uint64_t a = order->boxes[*(const uint32_t *)left].low[order->digit];
    uint64_t b = order->boxes[*(const uint32_t *)right].low[order->digit];
    return a < b ? -1 : a > b;
}

/* Elements [first, first + count) relative to the group; what lies behind the group's end does not matter. */
static tpv_cover_verdict_t hole(sweep_t *sweep, uint64_t first, uint64_t count) {
    if (first >= sweep->length) return TPV_COVER_PROVEN;
    if (count > sweep->length - first) count = sweep->length - first;
    sweep->fault->first = sweep->low + first;
    sweep->fault->last = sweep->low + first + count - 1;
    return TPV_COVER_HOLE;
}

/* The smallest digit: intervals that must tile [0, radix). `base` is what the larger digits stand for. */
static tpv_cover_verdict_t sweep_runs(sweep_t *sweep, const uint32_t *list, size_t count, uint64_t base) {
    uint64_t position = 0;
    uint32_t before = 0;
    for (size_t i = 0; i < count; i++) {
        const box_t *box = &sweep->boxes[list[i]];
        if (box->low[0] > position) return hole(sweep, base + position, box->low[0] - position);
        if (box->low[0] < position) {
            uint64_t end = box->high[0] < position ? box->high[0] : position;
            *sweep->fault = (tpv_cover_fault_t){.first = sweep->low + base + box->low[0],
                                                .last = sweep->low + base + end - 1,
                                                .a = sweep->boxes[before].piece,
                                                .b = box->piece};
            return TPV_COVER_TWICE;
        }
        position = box->high[0];
        before = list[i];
    }
    if (position < sweep->radix[0]) return hole(sweep, base + position, sweep->radix[0] - position);
    return TPV_COVER_PROVEN;
}

/* The boxes in lists[digit] must fill every value of this digit and the smaller ones exactly once. */
static tpv_cover_verdict_t sweep_digit(sweep_t *sweep, unsigned digit, size_t count, uint64_t base) {
    uint32_t *list = sweep->lists[digit], *active = sweep->active[digit];
    order_t order = {.boxes = sweep->boxes, .digit = digit};
    if (count > 1) qsort_r(list, count, sizeof *list, by_low, &order);
    if (digit == 0) return sweep_runs(sweep, list, count, base);

    uint64_t position = 0, weight = sweep->weight[digit];
    size_t next = 0, active_count = 0;
    while (position < sweep->radix[digit]) {
        size_t kept = 0;
        for (size_t i = 0; i < active_count; i++)
            if (sweep->boxes[active[i]].high[digit] > position) active[kept++] = active[i];
        active_count = kept;
        while (next < count && sweep->boxes[list[next]].low[digit] <= position)
            active[active_count++] = list[next++];
        uint64_t end = next < count ? sweep->boxes[list[next]].low[digit] : sweep->radix[digit];
        if (active_count == 0) return hole(sweep, base + position * weight, (end - position) * weight);
        for (size_t i = 0; i < active_count; i++)
            if (sweep->boxes[active[i]].high[digit] < end) end = sweep->boxes[active[i]].high[digit];

        if (sweep->budget->steps < active_count) return TPV_COVER_UNDECIDED;
        sweep->budget->steps -= active_count;
        memcpy(sweep->lists[digit - 1], active, active_count * sizeof *active);
        tpv_cover_verdict_t verdict = sweep_digit(sweep, digit - 1, active_count, base + position * weight);
        if (verdict != TPV_COVER_PROVEN) return verdict;
        position = end;
    }
    return TPV_COVER_PROVEN;
}

tpv_cover_verdict_t tpv_cover_sweep(const tpv_piece_t *pieces, size_t count, uint64_t low, uint64_t high,
                                    tpv_cover_budget_t *budget, tpv_cover_fault_t *fault) {
    sweep_t sweep = {.low = low, .length = high - low, .budget = budget, .fault = fault};
    if (!choose_digits(&sweep, pieces, count)) return TPV_COVER_UNDECIDED;

    tpv_cover_verdict_t verdict = TPV_COVER_NO_MEMORY;
    sweep.box_room = count;
    sweep.box_limit = 4 * count + 4096; /* pieces that do not begin with a digit take more than one */
    sweep.boxes = malloc(count * sizeof *sweep.boxes);
    if (!sweep.boxes) return TPV_COVER_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        tpv_place_t place;
        tpv_place_of(&pieces[i], &place);
        box_t box = {.piece = i};
        verdict = cut_place(&sweep, &place, 0, 0, place.low - low, &box);
        if (verdict != TPV_COVER_PROVEN) goto done;
    }
    verdict = TPV_COVER_NO_MEMORY;
    for (unsigned d = 0; d < sweep.digits; d++) {
        sweep.lists[d] = malloc(sweep.box_count * sizeof *sweep.lists[d]);
        sweep.active[d] = malloc(sweep.box_count * sizeof *sweep.active[d]);
        if (!sweep.lists[d] || !sweep.active[d]) goto done;
    }
    unsigned top = sweep.digits - 1;
    for (size_t i = 0; i < sweep.box_count; i++)
        sweep.lists[top][i] = (uint32_t)i;
    verdict = sweep_digit(&sweep, top, sweep.box_count, 0);

done:
    for (unsigned d = 0; d < sweep.digits; d++) {
        free(sweep.lists[d]);
        free(sweep.active[d]);
    }
    free(sweep.boxes);
    return verdict;
}
