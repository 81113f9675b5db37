// One step of attention over exactly the keys that reach a threshold: filter, decide, softmax, values, in one launch.
// The twin of halfspace/cpu/attention/attend.py.
#include "attention/attend_scores.cuh"
#include "attention/prepare.cuh"

// Round to the type of the output.
__device__ __forceinline__ void put(const Attend& call, long long at, float value) {
    if (call.wide != 0) {
        static_cast<float*>(call.output)[at] = value;
    } else {
#if FORMAT == 1
        static_cast<unsigned short*>(call.output)[at] = float_to_half(value);
#elif FORMAT == 2
        static_cast<unsigned short*>(call.output)[at] = float_to_bfloat16(value);
#endif
    }
}

// Answer a set without rows, or with trouble.
__device__ void put_nothing(const Attend& call, long long first, int count, bool trouble) {
    const float nan = __uint_as_float(0x7fc00000u);
    for (int i = threadIdx.x; i < count * HEAD_DIM; i += THREADS) put(call, first * HEAD_DIM + i, trouble ? nan : 0.0f);
    for (int k = threadIdx.x; k < count; k += THREADS) {
        call.log_sum_exp[first + k] = trouble ? nan : -INFINITY;
        call.kept[first + k] = 0;
    }
}

// The share of what is relative to one logit among what is relative to a larger one.
__device__ __forceinline__ float share_of(float top, float largest) {
    return top == -INFINITY ? 0.0f : exp2f(top - largest);
}

// Join what the warps of a block have, and write it down as the part of this split, or join it with what is there if
// there is `more`; `looked` rows among it were of use.
__device__ __forceinline__ void put_part(const Attend& call, const Shared& shared, Gathered& own, int looked, bool more,
                                         unsigned char* room) {
    const int lane = lane_number(), warp = threadIdx.x / WARP;
    const auto weighted = [&](int w) { return reinterpret_cast<float4*>(room + w * RING); };  // (SET, d) of each warp
    const auto parts = [&](int w) { return weighted(w) + SET * HEAD_DIM / 4; };                // (SET,)
    const long long at = (long long)(shared.space.first + shared.space.split) * SET;
    float4 before = make_float4(-INFINITY, 0.0f, 0.0f, 0.0f);
    Weighed& sums = own.weighed;
#pragma unroll
    for (int step = SET; step < WARP; step *= 2) {
        sums.sum += __shfl_xor_sync(FULL, sums.sum, step);
        sums.kept += __shfl_xor_sync(FULL, sums.kept, step);
    }
    put_gathered(own, reinterpret_cast<float*>(weighted(warp)));
    if (lane < SET)
        parts(warp)[lane] =
            make_float4(sums.top, sums.sum, __int_as_float(sums.kept), __int_as_float(looked));
    const int i = threadIdx.x, h = i / (HEAD_DIM / SET);  // four dimensions of a head: there are d of these in a set
    if (more && i < HEAD_DIM) before = call.parts[at + h];
    __syncthreads();
    if (i >= HEAD_DIM) return;
    float top = before.x, sum = 0.0f;
    int kept = __float_as_int(before.z), useful = __float_as_int(before.w);
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float4* place = reinterpret_cast<float4*>(call.weighted + at * HEAD_DIM) + i;
#pragma unroll
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, parts(w)[h].x);
    if (more) {
        const float share = share_of(before.x, top);
        const float4 four = *place;
        total = make_float4(share * four.x, share * four.y, share * four.z, share * four.w);
        sum = share * before.y;
    }
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float4 part = parts(w)[h], four = weighted(w)[i];
        const float share = share_of(part.x, top);
        total.x = fmaf(share, four.x, total.x), total.y = fmaf(share, four.y, total.y);
        total.z = fmaf(share, four.z, total.z), total.w = fmaf(share, four.w, total.w);
        sum = fmaf(share, part.y, sum);
        kept += __float_as_int(part.z), useful += __float_as_int(part.w);
    }
    *place = total;
    if (i % (HEAD_DIM / SET) == 0)
        call.parts[at + h] = make_float4(top, sum, __int_as_float(kept), __int_as_float(useful));
}

// Leave for the next call how much of a set was of use, and whether it is to look for keys to leave out.
__device__ __forceinline__ void tell_next(const Attend& call, int set, float share) {
    call.shares[set] = share;
    if (call.turns == nullptr) return;
    Turn& turn = call.turns[set];
    if (turn.looked != 0) {
        turn.skipped = share > call.rest_share ? SKIPPED : 0;
    } else if (turn.skipped != 0) {
        turn.skipped--;
    }
}

// Join the splits of a set in their order, by the block that comes last. Some threads share each part of the answer:
// they go over the splits by turns, and read the first AHEAD of theirs while others find out what these weigh.
__device__ __forceinline__ void put_answer(const Attend& call, const Shared& shared, long long first, int count,
                                           int rows, unsigned char* room) {
    constexpr int TEAMS = THREADS / HEAD_DIM, AHEAD = 17;
    const int splits = shared.space.splits, lane = lane_number(), warp = threadIdx.x / WARP;
    const int team = threadIdx.x / HEAD_DIM, own = threadIdx.x % HEAD_DIM;  // four dimensions of a head
    const long long at = (long long)shared.space.first * SET;
    float4* sums = reinterpret_cast<float4*>(room);                             // (TEAMS, d)
    float* results = reinterpret_cast<float*>(sums + TEAMS * HEAD_DIM);         // (SET,)
    float* shares = results + SET;                                              // (SET, splits)
    const float4* weighted = reinterpret_cast<const float4*>(call.weighted + at * HEAD_DIM) + own;
    const float4* parts = call.parts + at + warp;
    float4 one = make_float4(-INFINITY, 0.0f, 0.0f, 0.0f), two = one, ahead[AHEAD];
    if (warp < count) {
        if (lane < splits) one = reload128(parts + lane * SET);
        if (lane + WARP < splits) two = reload128(parts + (lane + WARP) * SET);
    }
    if (team < TEAMS) {
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (team + k * TEAMS < splits) ahead[k] = reload128(weighted + (team + k * TEAMS) * HEAD_DIM);
    }
    float top = fmaxf(one.x, two.x), sum = 0.0f;
    int kept = 0, useful = 0;
    if (warp < count) {
#pragma unroll 1
        for (int split = lane + 2 * WARP; split < splits; split += WARP)
            top = fmaxf(top, reload128(parts + split * SET).x);
        for (int step = WARP / 2; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(FULL, top, step));
#pragma unroll 1
        for (int split = lane; split < splits; split += WARP) {
            const float4 part = split < WARP ? one : split < 2 * WARP ? two : reload128(parts + split * SET);
            const float share = share_of(part.x, top);
            shares[warp * splits + split] = share;
            sum = fmaf(share, part.y, sum);
            kept += __float_as_int(part.z), useful += __float_as_int(part.w);
        }
    }
    __syncthreads();
    const int head = own / (HEAD_DIM / SET);
    if (team < TEAMS && head < count) {
        float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const auto add = [&](const float4& part, int split) {
            const float share = shares[head * splits + split];
            total.x = fmaf(share, part.x, total.x), total.y = fmaf(share, part.y, total.y);
            total.z = fmaf(share, part.z, total.z), total.w = fmaf(share, part.w, total.w);
        };
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (team + k * TEAMS < splits) add(ahead[k], team + k * TEAMS);
#pragma unroll 8
        for (int split = team + AHEAD * TEAMS; split < splits; split += TEAMS)
            add(reload128(weighted + split * HEAD_DIM), split);
        sums[team * HEAD_DIM + own] = total;
    }
    if (warp < count) {
        for (int step = WARP / 2; step > 0; step /= 2) {
            sum += __shfl_xor_sync(FULL, sum, step);
            kept += __shfl_xor_sync(FULL, kept, step), useful += __shfl_xor_sync(FULL, useful, step);
        }
        if (lane == 0) {
            const bool bad = shared.plans[warp].bad != 0.0;
            results[warp] = bad ? __uint_as_float(0x7fc00000u) : kept == 0 ? 0.0f : 1.0f / sum;
            call.log_sum_exp[first + warp] = kept == 0 ? -INFINITY : (top + (log2f(sum) - (float)RAISED)) * 0.69314718f;
            call.kept[first + warp] = kept;
            if (warp == 0) tell_next(call, shared.space.set, (float)useful / (float)rows);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * HEAD_DIM; i += THREADS) {
        float total = 0.0f;
#pragma unroll
        for (int k = 0; k < TEAMS; k++) total += reinterpret_cast<const float*>(sums)[k * SET * HEAD_DIM + i];
        put(call, first * HEAD_DIM + i, total * results[i / HEAD_DIM]);
    }
    if (threadIdx.x == 0) call.arrived[shared.space.set] = 0;
}

// Grid: x splits, all of which run at once; y sets of all spaces. Or x blocks, which sets share. Blocks of THREADS; shared
// memory: RING bytes for each warp, and at least as much as putting parts together takes.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attend(Cache cache, Attend call) {
    extern __shared__ __align__(128) unsigned char rings[];
    __shared__ Shared shared;
    const int lane = lane_number(), warp = threadIdx.x / WARP;
    const int heads = (int)cache.heads, group = (int)call.query_heads / heads, sets = (group + SET - 1) / SET;
    Walk walk{0, 0, 0, rings + warp * RING, shared.barriers[warp]};
    if (lane < HIGH_STAGES) make_barrier(walk.barriers + lane);
    wait_for_previous();
    Task task{(int)blockIdx.y, (int)(blockIdx.y * gridDim.x), (int)blockIdx.x, (int)gridDim.x, false};
    if (call.works != nullptr) task = find_task(call, (int)cache.batch * heads * sets);
    if (task.set < 0) return;

    const int space_number = task.set / sets, sequence = space_number / heads;
    const int before = task.set % sets * SET, count = min(SET, group - before);
    const long long own = space_number;
    const long long first = sequence * call.query_heads + space_number % heads * group + before;
    Space space;
    place_space(cache, own, space);
    space.grain = cache.grain;
    space.count = count;
    space.scale = (float)call.scale;
    space.cap = (float)call.cap;
    space.set = task.set, space.first = task.first, space.split = task.split, space.splits = task.splits;
    const int which = warp % SET;  // half of the warps look after codes, and half after scores
    Asked asked;
    read_head(cache, call, own, first + min(which, count - 1), asked);
    const long long length = cache.lengths[sequence];
    const int limit = call.uppers != nullptr && lane % SET < count ? call.limits[first + lane % SET] : 0x7fffffff;
    const bool trouble = cache.status[sequence] != 0;
    const float share = call.shares[space.set];
    if (trouble || length == 0) {
        if (space.split == 0) put_nothing(call, first, count, trouble);
        return;
    }
    space.rows = (int)length;
    space.sinks = (int)min(call.sinks, length);
    space.recent = (int)max(length - call.recent, 0ll);
    const bool dense = length < call.few || (call.works == nullptr ? share > call.dense_share : task.whole);
    const bool scored = !dense && call.uppers != nullptr;
    const bool in_turn = !dense && !scored && length >= call.many * space.splits && share <= call.cascade_share;
    Room& room = shared.rooms[warp];
    const Batches all{ALL_ROWS, space.rows, BATCH * (space.split * WARPS + warp), BATCH * WARPS * space.splits};
    const auto begin = [&] {
        if (in_turn) {
            begin_walk<false>(space, walk);
        } else {
            begin_walk<true>(space, walk);
        }
    };
    if (!dense) {
        const int tiles = (space.rows + ROWS - 1) / ROWS, start = tile_of(space, 0, warp), step = WARPS * space.splits;
        walk.total = start < tiles ? (tiles - start + step - 1) / step : 0;
    }
    if (warp < SET) {
#pragma unroll
        for (int k = 0; k < 8 * LANES / WARP; k++)
            shared.queries[warp][lane + WARP * k] = k < STEPS && warp < count ? asked.components[k].x : 0.0f;
    } else if (threadIdx.x == THREADS - 1) {
        shared.space = space;
    }
    const auto list_scores = [&] {
        filter_scores(space, shared, call.uppers + space.set * cache.capacity * SET, Limits(limit), walk);
    };
    const auto all_listed = [&] {
        Batches rows{LISTED_ROWS, 0, warp, BATCH * WARPS};
#pragma unroll
        for (int other = 0; other < WARPS; other++) rows.total += shared.found[other];
        return rows;
    };
    if (scored) list_scores();  // before heads are prepared, which rows alone need
    __syncthreads();  // what was read is there: it would come late behind all that follows
    Batches rows = scored ? all_listed() : all;
    bool listed = dense || scored, begun = listed, decided = false;
    int looked = scored ? shared.found[warp] : 0;
    if (begun) {
        rows.begin(space, shared, room, walk.ring);
    } else {
        begin();
    }
    if (warp >= SET) put_operands(asked, which < count, call.wide != 0, which, shared);
    if (which >= count) {
        if (warp < SET) prepare_none(which, shared);
    } else if (warp >= SET) {
        prepare_scores(cache, asked, own, space.rows, which, call.wide != 0, shared);
    } else if (!dense && !scored) {
        prepare_codes(asked, which, shared);
    }
    __syncthreads();

    // Rounds: of tiles, of rows, of what rows have left for later. There is hardly ever more than one of the first two.
#pragma unroll 1
    for (int round = 0;; round++) {
        if (!listed) {
            if (scored) {
                list_scores();
            } else {
                if (round > 0) begin();
                filter_codes(space, shared, in_turn, walk);
            }
            __syncthreads();
            rows = all_listed();
            listed = true;
            looked = shared.found[warp];
        }
        Batches batches = decided ? Batches{DECIDED_ROWS, shared.doubts[warp], 0, BATCH} : rows;
        if (!begun) batches.begin(space, shared, room, walk.ring);
        begun = false;
        Gathered gathered;
        batches.gather_rows(space, shared, room, walk.ring, gathered);
        if (!decided) rows.start = batches.start;
        if (lane == 0) shared.rest[warp] = rows.start < rows.total;
        put_part(call, shared, gathered, dense ? gathered.weighed.useful : looked, round > 0, rings);
        looked = 0;
        bool doubt = false, rest = false, going = false;
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            doubt = doubt || shared.doubts[other] != 0;
            rest = rest || shared.rest[other] != 0;
            going = going || (!dense && shared.going[other] != 0);
        }
        if (!doubt && !rest && !going) break;
        decided = doubt;
        if (doubt) {
            decide_doubts(shared, room, shared.doubts[warp]);
        } else {
            listed = rest || dense;
        }
        before_copies();
        __syncthreads();  // all have seen how it goes on; what was written down is written, and the rings are free
    }
    let_next_begin();  // not before: its blocks would crowd where this one is done first
    __syncthreads();
    if (threadIdx.x == 0) shared.last = (int)arrive(call.arrived + space.set) == space.splits - 1;
    __syncthreads();
    if (shared.last == 0) return;
    put_answer(call, shared, first, count, space.rows, rings);
}
