// What matrix products of whole codes share: rows in units of their scales, and what of a direction they must reach.
#pragma once

#include "filters/lifts.cuh"

// A row in units of its scale s, where its codes are integers.
struct Terms {
    float inverse;  // 1 / s
    float ratio;    // r / s, of the radius
#if METRIC != IP
    float rise;     // e / s, of the length
#endif
};

// A vector at the centre is always left; what is no vector never.
__device__ __forceinline__ Terms terms_of(const Segment& segment, long long row) {
    const bool there = row < segment.rows;
    const double scale = there ? widen16(segment.scales[row]) : 0.0;
    const double radius = there ? widen16(segment.low_radii[row]) : 0.0;
    Terms own;
    own.inverse = scale > 0.0 ? narrow(1.0 / scale) : 0.0f;
    own.ratio = scale > 0.0 ? narrow(radius / scale) : there ? INFINITY : -INFINITY;
#if METRIC != IP
    own.rise = scale > 0.0 ? rise_of(segment.lengths[row], scale) : 0.0f;
#endif
    return own;
}

// Integer products from which on a row is left, and from which on it is a hit for certain.
struct Bounds {
    float needed;
    float enough;
};

__device__ __forceinline__ Bounds bounds_of(const Level& level, const Lift& lift, const Terms& own) {
    const float width = level.ratio * own.ratio + level.offset;
    Bounds bounds = {level.level * own.inverse - width, level.sure_level * own.inverse + width};
#if METRIC != IP
    bounds.needed += lift.below * own.rise;
    bounds.enough += lift.above * own.rise;
#endif
    return bounds;
}

// Join both halves of eight codes into signed bytes.
__device__ __forceinline__ uint2 joined(unsigned upper, unsigned lower) {
    return make_uint2(((upper & NIBBLES) << 4 | (lower & NIBBLES)) ^ 0x80808080u,
                      ((upper & ~NIBBLES) | (lower >> 4 & NIBBLES)) ^ 0x80808080u);
}
