//! Multiple-choice knapsack: one option of every item, sum of weights within the budget, sum of values maximal.
//!
//! Each item is pruned to its Pareto front and its upper convex hull; the hull's steps taken by falling slope are the
//! optimum of the relaxed problem (Sinha and Zoltners 1979), which is both a good start and the bound of a depth-first
//! branch and bound. The search is bounded in steps: calls of a handful of tracks are solved exactly, for dozens the
//! start is within one step of the optimum anyway. Knows nothing of layers.

/// Bound of the search in visited hull steps: keeps 50 items of 12 options under 100 µs.
const MAX_VISITS: u32 = 30_000;

/// One thing of which exactly one option is taken.
pub(super) struct Item {
    index: usize,
    points: Vec<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    option: usize,
    weight: u64,
    value: f64,
}

impl Item {
    /// `floor` is taken if nothing else is; its weight is 0 by definition.
    pub(super) fn new(index: usize, floor: usize, value: f64) -> Self {
        Self { index, points: vec![Point { option: floor, weight: 0, value }] }
    }

    pub(super) fn offer(&mut self, option: usize, weight: u64, value: f64) {
        self.points.push(Point { option, weight, value });
    }

    /// Keeps only points that are worth more than every cheaper one.
    fn prune(&mut self) {
        self.points.sort_by(|a, b| a.weight.cmp(&b.weight).then(b.value.total_cmp(&a.value)));
        let mut best = f64::NEG_INFINITY;
        self.points.retain(|point| {
            let keep = point.value > best;
            best = best.max(point.value);
            keep
        });
    }

    /// Indices into `points` of the upper convex hull.
    fn hull(&self) -> Vec<usize> {
        let mut hull: Vec<usize> = Vec::with_capacity(self.points.len());
        for candidate in 0..self.points.len() {
            while let [.., a, b] = hull[..] {
                if slope(&self.points[a], &self.points[b]) <= slope(&self.points[a], &self.points[candidate]) {
                    hull.pop();
                } else {
                    break;
                }
            }
            hull.push(candidate);
        }
        hull
    }
}

fn slope(from: &Point, to: &Point) -> f64 {
    (to.value - from.value) / (to.weight - from.weight) as f64
}

/// One step up an item's hull.
#[derive(Clone, Copy)]
struct Step {
    item: usize,
    to: usize,
    weight: u64,
    value: f64,
    slope: f64,
}

/// Returns `(item index, option)` for every item.
pub(super) fn solve(budget: u64, mut items: Vec<Item>) -> Vec<(usize, usize)> {
    for item in &mut items {
        item.prune();
    }
    // Items with many unlike steps first: their choice decides most, and the bound gets tight early.
    items.sort_by_key(|item| std::cmp::Reverse(item.points.last().map_or(0, |point| point.weight)));
    let mut steps = Vec::new();
    for (position, item) in items.iter().enumerate() {
        for pair in item.hull().windows(2) {
            let (from, to) = (&item.points[pair[0]], &item.points[pair[1]]);
            steps.push(Step {
                item: position,
                to: pair[1],
                weight: to.weight - from.weight,
                value: to.value - from.value,
                slope: slope(from, to),
            });
        }
    }
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope).then(a.item.cmp(&b.item)).then(a.to.cmp(&b.to)));

    let start = climb(budget, &items, &steps);
    let value = start.iter().zip(&items).map(|(&point, item)| item.points[point].value).sum();
    let mut search =
        Search { items: &items, steps: &steps, best: start.clone(), best_value: value, path: start, visits: 0 };
    let floor: f64 = items.iter().map(|item| item.points[0].value).sum();
    search.descend(0, budget, floor);
    let best = search.best;
    items.iter().zip(best).map(|(item, point)| (item.index, item.points[point].option)).collect()
}

/// The hull's steps by falling slope while they fit, then whatever single change still helps.
fn climb(budget: u64, items: &[Item], steps: &[Step]) -> Vec<usize> {
    let mut chosen = vec![0; items.len()];
    let mut stuck = vec![false; items.len()];
    let mut left = budget;
    for step in steps {
        if stuck[step.item] {
            continue;
        }
        if step.weight <= left {
            left -= step.weight;
            chosen[step.item] = step.to;
        } else {
            stuck[step.item] = true;
        }
    }
    while let Some((item, point, gain)) = best_single_change(items, &chosen, left) {
        left = left + items[item].points[chosen[item]].weight - items[item].points[point].weight;
        chosen[item] = point;
        debug_assert!(gain > 0.0);
    }
    chosen
}

fn best_single_change(items: &[Item], chosen: &[usize], left: u64) -> Option<(usize, usize, f64)> {
    let mut best: Option<(usize, usize, f64)> = None;
    for (position, item) in items.iter().enumerate() {
        let now = &item.points[chosen[position]];
        for (index, point) in item.points.iter().enumerate().skip(chosen[position] + 1) {
            let gain = point.value - now.value;
            if point.weight - now.weight <= left && best.is_none_or(|(_, _, other)| gain > other) {
                best = Some((position, index, gain));
            }
        }
    }
    best
}

struct Search<'a> {
    items: &'a [Item],
    steps: &'a [Step],
    path: Vec<usize>,
    best: Vec<usize>,
    best_value: f64,
    visits: u32,
}

impl Search<'_> {
    /// Items before `depth` are fixed in `path`; `value` counts them and the floors of the others.
    fn descend(&mut self, depth: usize, left: u64, value: f64) {
        if depth == self.items.len() {
            if value > self.best_value {
                self.best_value = value;
                self.best.clone_from(&self.path);
            }
            return;
        }
        // A hair of slack: equal sums in another order of addition are not an improvement.
        if self.visits > MAX_VISITS || self.bound(depth, left, value) <= self.best_value + 1e-9 {
            return;
        }
        let item = &self.items[depth];
        let floor = item.points[0].value;
        let fitting = item.points.partition_point(|point| point.weight <= left);
        for point in (0..fitting).rev() {
            self.path[depth] = point;
            let Point { weight, value: worth, .. } = item.points[point];
            self.descend(depth + 1, left - weight, value - floor + worth);
        }
    }

    /// The relaxed optimum of the items from `depth` on: no real choice is worth more.
    fn bound(&mut self, depth: usize, mut left: u64, mut value: f64) -> f64 {
        for step in self.steps {
            self.visits += 1;
            if step.item < depth {
                continue;
            }
            if step.weight > left {
                return value + step.value * left as f64 / step.weight as f64;
            }
            left -= step.weight;
            value += step.value;
        }
        value
    }
}
