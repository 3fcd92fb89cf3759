// Package mutant names the mistakes that the tests have to find. Each of them
// is a line that breaks one promise on purpose, to prove that some checker
// sees it:
//
//	if l.Index <= s.at.Index && !mutant.On(mutant.SkipOff) {
//
// In a build without the tag `mutants`, On is the constant false, and the
// compiler drops the mistake and its name; a test looks for both in the
// machine code and in the server. With the tag, one mutant is on in a process,
// the one that the environment names:
//
//	SNIPDB_MUTANT=skip.off        which; a name that is none ends the process
//	SNIPDB_MUTANT_MARK=/path      a file that is made when the mistake is reached
//
// The list is in mutants.go, what finds each of them in cmd/mutants.
//
// # A new one
//
//  1. A name in mutants.go, and its line in All: what breaks.
//  2. One line in the code, which asks On. A mistake of more than a line or two
//     is a function in a file broken.go of its package, so that what is right
//     stays easy to read.
//  3. A row in cmd/mutants: the checkers, the nearest to a user first.
//  4. make mutants MUTANT=name. If it survives, the checkers are what to mend.
package mutant
