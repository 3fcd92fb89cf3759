package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// selector is one metric of a PromQL expression with its label matchers.
type selector struct {
	metric   string
	matchers [][3]string // label, operator, value
}

// expression is what the tests need of a PromQL expression. The whole grammar
// is promtool's business: run it by hand after a change, see deploy/README.md.
type expression struct {
	selectors []selector
	labels    []string // in by, without, on, ignoring
}

var promToken = regexp.MustCompile(`^(?:\s+|"(?:[^"\\]|\\.)*"|\[(?:\$__\w+|\d+[smhd])\]|[A-Za-z_:][A-Za-z0-9_:]*|\d+(?:\.\d+)?(?:e\d+)?|=~|!~|!=|==|>=|<=|[-+*/<>=(){},])`)

var promFunctions = []string{"sum", "max", "min", "rate", "increase", "changes", "histogram_quantile", "predict_linear", "time"}

// parseExpression splits an expression into its tokens, checks that brackets
// match and functions are known, and collects metrics, matchers and labels.
func parseExpression(text string) (expression, error) {
	var tokens []string
	for rest := text; rest != ""; {
		token := promToken.FindString(rest)
		if token == "" {
			return expression{}, fmt.Errorf("nothing known begins at %.20q", rest)
		}
		if rest = rest[len(token):]; strings.TrimSpace(token) != "" {
			tokens = append(tokens, token)
		}
	}
	if err := balanced(tokens); err != nil {
		return expression{}, err
	}
	tokens = append(tokens, "") // so that there is always a next one
	var e expression
	for i := 0; i < len(tokens)-1; i++ {
		token, next := tokens[i], tokens[i+1]
		switch {
		case !isName(token), slices.Contains([]string{"and", "or", "unless"}, token):
		case slices.Contains([]string{"by", "without", "on", "ignoring", "group_left", "group_right"}, token):
			for i++; tokens[i] != ")"; i++ {
				if isName(tokens[i]) {
					e.labels = append(e.labels, tokens[i])
				}
			}
		case next == "(" || next == "by":
			if !slices.Contains(promFunctions, token) {
				return e, fmt.Errorf("no function %q is known here", token)
			}
		default:
			s := selector{metric: token}
			if next == "{" {
				end := i + 1 + slices.Index(tokens[i+1:], "}")
				for _, matcher := range splitTokens(tokens[i+2:end], ",") {
					if len(matcher) != 3 || !isName(matcher[0]) || !strings.HasPrefix(matcher[2], `"`) {
						return e, fmt.Errorf("%v is no matcher of %s", matcher, token)
					}
					s.matchers = append(s.matchers, [3]string{matcher[0], matcher[1], strings.Trim(matcher[2], `"`)})
				}
				i = end
			}
			e.selectors = append(e.selectors, s)
		}
	}
	if len(e.selectors) == 0 {
		return e, fmt.Errorf("it names no metric")
	}
	return e, nil
}

func isName(token string) bool {
	return token != "" && (token[0] == '_' || token[0] >= 'a' && token[0] <= 'z' || token[0] >= 'A' && token[0] <= 'Z')
}

func splitTokens(tokens []string, by string) (parts [][]string) {
	for len(tokens) > 0 {
		end := slices.Index(tokens, by)
		if end < 0 {
			return append(parts, tokens)
		}
		parts, tokens = append(parts, tokens[:end]), tokens[end+1:]
	}
	return parts
}

func balanced(tokens []string) error {
	var open []string
	for _, token := range tokens {
		switch token {
		case "(", "{":
			open = append(open, token)
		case ")", "}":
			if len(open) == 0 || open[len(open)-1] != map[string]string{")": "(", "}": "{"}[token] {
				return fmt.Errorf("%q closes nothing", token)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%q is not closed", open[len(open)-1])
	}
	return nil
}

func TestParseExpression(t *testing.T) {
	e, err := parseExpression(`sum by (a, b) (rate(x_total{l="v",m=~"p|q"}[5m])) / on (c) group_right () y > 0.5 or z{} - 2 * w`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(e), `{[{x_total [[l = v] [m =~ p|q]]} {y []} {z []} {w []}] [a b c]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{"", "1", "rate(x", "x)", "x{a=b}", "x{a}", "x{(})", "frobnicate(x)", "x[5 years]", "x ? y"} {
		if e, err := parseExpression(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, e)
		}
	}
}
