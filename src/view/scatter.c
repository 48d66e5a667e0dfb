#include "view/scatter.h"

#include <string.h>

#include "view/copy.h"
#include "view/view.h"

bool tpv_view_uses(const tpv_view_t *view, size_t tensor) {
    for (size_t i = 0; i < view->program.count; i++)
        if (view->program.records[i].tensor == tensor) return true;
    return false;
}

static const tpv_level_t *levels_of(const tpv_view_t *view, const tpv_record_t *record) {
    return &view->program.levels[record->first_level];
}

void tpv_view_scatter(const tpv_view_t *view, size_t tensor, const void *bytes, void *destination) {
    for (size_t i = 0; i < view->program.count; i++) {
        const tpv_record_t *record = &view->program.records[i];
        if (record->tensor != tensor) continue;
        const tpv_level_t *level = levels_of(view, record);
        tpv_copy_box((char *)destination + record->start, (const char *)bytes + record->from, level, record->levels,
                     record->levels ? level->count : 0, record->run);
    }
}

void tpv_view_scatter_fills(const tpv_view_t *view, void *destination) {
    for (size_t i = 0; i < view->program.count; i++) {
        const tpv_record_t *record = &view->program.records[i];
        if (record->tensor == TPV_PIECE_NUMBER) memcpy((char *)destination + record->start, &record->from, record->run);
        if (record->tensor != TPV_PIECE_ZERO) continue;
        const tpv_level_t *level = levels_of(view, record);
        tpv_zero_box((char *)destination + record->start, level, record->levels, record->levels ? level->count : 0,
                     record->run);
    }
}
