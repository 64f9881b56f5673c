package main

import (
	"fmt"
	"slices"
	"strings"
)

// summary is one metric of one contender over its rounds.
type summary struct {
	Case      string
	Contender string
	Metric    string
	Unit      string `json:",omitempty"`
	Median    float64
	Low, High float64
	N         int
}

// verdict is one goal.
type verdict struct {
	Case   string
	Metric string
	Goal   string
	Own    float64
	Ref    float64
	Ratio  float64 // own / reference
	Met    bool
	Weak   bool // fewer than half of the rounds counted: no verdict
}

// judge computes the summaries and compares them with the goals.
func (r *report) judge() {
	r.Summaries, r.Goals = nil, nil
	for _, c := range r.Cases {
		for _, m := range c.Metrics {
			for _, x := range c.Contenders {
				r.Summaries = append(r.Summaries, r.summarize(c, m, x))
			}
		}
	}
	for _, c := range r.Cases {
		for _, m := range c.Metrics {
			if v, ok := r.verdict(c, m); ok {
				r.Goals = append(r.Goals, v)
			}
		}
	}
}

// verdict judges one metric, if it has a goal and those that the goal speaks
// of ran.
func (r *report) verdict(c caseInfo, m metricInfo) (verdict, bool) {
	if m.Goal == nil || !slices.Contains(c.Contenders, c.Own) {
		return verdict{}, false
	}
	own := r.find(c.Name, c.Own, m.Name)
	v := verdict{Case: c.Name, Metric: m.Name, Goal: m.Goal.text(c.Reference, m.Unit), Own: own.Median}
	counted, value := own.N, own.Median
	switch m.Goal.Against {
	case theReference:
		ref := r.find(c.Name, c.Reference, m.Name)
		if !slices.Contains(c.Contenders, c.Reference) {
			return v, false
		}
		v.Ref, counted = ref.Median, min(own.N, ref.N)
		if ref.Median > 0 {
			v.Ratio = own.Median / ref.Median
		}
		value = v.Ratio
	case anotherCase:
		if !slices.ContainsFunc(r.Cases, func(other caseInfo) bool {
			return other.Name == m.Goal.Of && slices.Contains(other.Contenders, c.Own)
		}) {
			return v, false
		}
		ratios := r.ratios(m.Name, c.Own, c.Name, c.Own, m.Goal.Of)
		v.Ref, v.Ratio, counted = r.find(m.Goal.Of, c.Own, m.Name).Median, median(ratios), len(ratios)
		value = v.Ratio
	case nothing:
	}
	v.Met = counted > 0 && m.Goal.met(value)
	v.Weak = 2*counted < r.Rounds
	return v, true
}

func (r *report) summarize(c caseInfo, m metricInfo, contender string) summary {
	s := summary{Case: c.Name, Contender: contender, Metric: m.Name, Unit: m.Unit}
	var values []float64
	for _, x := range r.Samples {
		if v, ok := x.Values[m.Name]; ok && x.Case == c.Name && x.Contender == contender {
			values = append(values, v)
		}
	}
	if s.N = len(values); s.N == 0 {
		return s
	}
	s.Low, s.High, s.Median = slices.Min(values), slices.Max(values), median(values)
	return s
}

// ratios divides, round by round, what one contender had in one case by what
// another had in another.
func (r *report) ratios(metric, own, ownCase, ref, refCase string) []float64 {
	of := func(contender, name string) map[int]float64 {
		found := map[int]float64{}
		for _, s := range r.Samples {
			if v, ok := s.Values[metric]; ok && s.Contender == contender && s.Case == name {
				found[s.Round] = v
			}
		}
		return found
	}
	a, b := of(own, ownCase), of(ref, refCase)
	var all []float64
	for round, v := range a {
		if w := b[round]; w != 0 {
			all = append(all, v/w)
		}
	}
	slices.Sort(all)
	return all
}

// median is the middle value, or the mean of the two in the middle; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func (r *report) find(caseName, contender, metric string) summary {
	for _, s := range r.Summaries {
		if s.Case == caseName && s.Contender == contender && s.Metric == metric {
			return s
		}
	}
	return summary{}
}

// sample finds the one that a contender had in a case and round.
func (r *report) sample(caseName, contender string, round int) (sample, bool) {
	for _, s := range r.Samples {
		if s.Case == caseName && s.Contender == contender && s.Round == round {
			return s, true
		}
	}
	return sample{}, false
}

// counted returns how many runs of a contender in a case count.
func (r *report) counted(caseName, contender string) int {
	n := 0
	for _, s := range r.Samples {
		if s.Case == caseName && s.Contender == contender {
			n++
		}
	}
	return n
}

// loss is one figure that fell short: of its goal, or of the reference's.
type loss struct {
	caseInfo
	metricInfo
	text string
}

// losses lists the goals that do not hold, and after them every other figure
// in which the reference is ahead.
func (r *report) losses() (goals, others []loss) {
	failed := map[[2]string]bool{}
	for _, v := range r.Goals {
		if v.Met && !v.Weak {
			continue
		}
		failed[[2]string{v.Case, v.Metric}] = true
		c, m := r.info(v.Case, v.Metric)
		text := fmt.Sprintf("%s is "+m.Format+"%s, wanted is %s", v.Metric, v.Own, unit(m), v.Goal)
		if m.Goal.Against != nothing {
			text += fmt.Sprintf(", which has "+m.Format+"%s: %.2f", v.Ref, unit(m), v.Ratio)
		}
		if v.Weak {
			text += " (no verdict: too few rounds counted)"
		}
		goals = append(goals, loss{c, m, text})
	}
	for _, c := range r.Cases {
		for _, m := range c.Metrics {
			own, ref := r.find(c.Name, c.Own, m.Name), r.find(c.Name, c.Reference, m.Name)
			if own.N == 0 || ref.N == 0 || failed[[2]string{c.Name, m.Name}] {
				continue
			}
			if (m.Better == more && own.Median < ref.Median) || (m.Better == less && own.Median > ref.Median) {
				text := fmt.Sprintf("%s is "+m.Format+"%s, %s has "+m.Format+"%s", m.Name, own.Median, unit(m), c.Reference, ref.Median, unit(m))
				others = append(others, loss{c, m, text})
			}
		}
	}
	return goals, others
}

// info finds a case and one of its metrics by name.
func (r *report) info(caseName, metric string) (caseInfo, metricInfo) {
	for _, c := range r.Cases {
		for _, m := range c.Metrics {
			if c.Name == caseName && m.Name == metric {
				return c, m
			}
		}
	}
	return caseInfo{}, metricInfo{}
}

// silent lists the cases and contenders of which no run counted.
func (r *report) silent() []string {
	var all []string
	for _, c := range r.Cases {
		for _, x := range c.Contenders {
			if r.counted(c.Name, x) == 0 {
				all = append(all, c.Name+" on "+x)
			}
		}
	}
	return all
}

// verdictless is an error when the runs that counted are too few to judge.
func (r *report) verdictless() error {
	if len(r.Broken) > 0 {
		b := r.Broken[0]
		return fmt.Errorf("%s on %s: %s", b.Case, b.Contender, b.Reason)
	}
	if silent := r.silent(); len(silent) > 0 {
		return fmt.Errorf("no run counted of %s", strings.Join(silent, ", "))
	}
	for _, g := range r.Goals {
		if g.Weak {
			return fmt.Errorf("too few rounds of %s counted: the machine is too busy for a verdict", g.Case)
		}
	}
	return nil
}

// unit is how a metric's unit stands after a number.
func unit(m metricInfo) string {
	if m.Unit == "" || m.Unit == "%" {
		return m.Unit
	}
	return " " + m.Unit
}
