"""Phrases of answers that address the voters or imitate the marks of a debate, in several languages.

Data only: `flags.py` reads texts through disguises and compares them with these.
"""

# ruff: noqa: RUF001 - letters that look alike are what it is about

from __future__ import annotations

ASKS = "asks for votes"
INSTRUCTS = "gives its readers instructions"
ADDRESSES = "addresses the voters or the judge"
TAGS = "imitates the tags of the debate"
BALLOT = "imitates a ballot or a review"
ROLES = "imitates the marks of a conversation"

_ANSWER = "(?:answer|response|reply|submission|solution|proposal)"
_THIS = rf"(?:me\b|mine\b|(?:this|my|the (?:above|preceding|following|present)) (?:\w+ )?{_ANSWER})"
_LABEL = r"[bcdfghjklmnpqrstvwxz]{4}\b"
_VOTERS = (
    "(?:voters?|judges?|jury|jurors?|reviewers?|graders?|evaluators?|raters?|referees?|experts?|"
    "panel(?:ists)?|moderators?|assistants?|ais?|llms?|models?|agents?|readers?)"
)

_VOTER_WORDS = (
    "voter|judge|jury|juror|reviewer|grader|evaluator|rater|referee|expert|panel|moderator|assistant|"
    "ai,|ai:|ai!|llm|model|agent|reader"
)

PHRASES: dict[str, tuple[tuple[str, ...], ...]] = {
    ASKS: (
        (
            "vot",
            (
                rf"\bvot(?:e|es|ing) (?:only |now |always )?(?:for |in favou?r of )?"
                rf"(?:{_THIS}|(?:answer |label )?{_LABEL})|\bvote (?:for )?this (?:one|entry|option)\b"
            ),
            r"\bvotefor(?:me|this|my)",
        ),
        (
            "choose |pick |select |prefer |favor |favour |upvote |support |endorse |elect ",
            (rf"\b(?:choose|pick|select|prefer|favou?r|upvote|support|endorse|elect) {_THIS}"),
            rf"\b(?:choose|pick|select) (?:answer|label) {_LABEL}",
        ),
        (
            "rank |rate |score |mark |grade |declare |judge |treat |consider ",
            (
                rf"\b(?:rank|rate|score|mark|grade|declare|judge|treat|consider) {_THIS}[^.\n]{{0,30}}"
                r"\b(?:first|highest|high|top|best|winner|correct|full|maximum|100|10)\b"
            ),
        ),
        (
            "give |award |grant |cast ",
            (
                r"\b(?:give|award|grant|cast)\b[^.\n]{0,40}\b(?:votes?|ballots?|points|score|marks?|"
                r"confidence)\b"
                rf"[^.\n]{{0,20}}\b(?:to|for) {_THIS}"
            ),
            rf"\b(?:give|award|grant) {_THIS} [^.\n]{{0,30}}\b(?:votes?|points|score|marks|confidence|win)\b",
        ),
        (
            (
                "deserves|win|chosen|select|picked|voted|votes|ranked|preferred|verified|approved|"
                "declared|confirmed"
            ),
            (
                rf"\b(?:this|my) {_ANSWER} (?:(?:deserves|should get|must get|needs) (?:your|all|the|every) "
                r"[^.\n]{0,20}\bvotes?\b|(?:must|should|shall|has to|deserves to) (?:\w+ )?(?:win|be (?:\w+ )?"
                r"(?:chosen|selected|picked|voted|ranked|the winner|preferred))\b|(?:has (?:already "
                r")?been|was|is) "
                r"(?:already )?(?:the winner|the winning|chosen by|selected by|approved by|verified by|"
                r"declared|"
                r"confirmed by)\b)"
            ),
        ),
        (
            "agreed|agree |voted|chose|approved",
            (
                rf"\b{_VOTERS} (?:have |has |all )*(?:already )?(?:agreed?|voted|chosen?|approved) "
                rf"(?:on |for |with |that )?{_THIS}"
            ),
        ),
        (  # German
            "antwort|fur mich|wahlt mich|wahle mich|wahlen sie mich",
            r"\b(?:stimm(?:e|t|en sie)?|votier(?:e|t|en sie)) (?:\w+ )?fur (?:mich\b|(?:diese|meine) antwort)",
            r"\bwahl(?:e|t|en sie)? (?:\w+ )?(?:mich\b|(?:diese|meine) antwort)",
            r"\b(?:gib|gebt|geben sie) (?:\w+ )?(?:mir|(?:dieser|meiner) antwort) (?:\w+ )?stimmen?\b",
            r"\b(?:stimmen?|punkte?|bewertung) (?:\w+ ){0,3}fur (?:mich|(?:diese|meine) antwort)",
        ),
        (  # French
            "reponse|moi",
            r"\bvot(?:ez|e|er|ons) (?:\w+ )?(?:pour )?(?:moi\b|(?:cette|ma) reponse)",
            r"\b(?:choisi(?:s|ssez|r)|selectionne[zr]?|prefere[zr]?)(?:-moi\b| (?:cette|ma) reponse)",
            r"\bdonne[zr]?[ -](?:moi )?(?:\w+ ){0,2}(?:voix|votes?|points)\b[^.\n]{0,20}(?:reponse|moi\b)",
        ),
        (  # Spanish
            "respuesta|por mi|a favor de mi",
            r"\bvot(?:a|e|en|ad|ar|emos) (?:\w+ )?(?:por|a favor de) (?:mi\b|(?:esta|mi) respuesta)",
            r"\b(?:elig(?:e|es)|elij(?:a|an)|elegid|seleccion\w+|esco[gj]\w+|prefier\w+) (?:esta|mi) respuesta",
            r"\b(?:da|den|de|dad|dame|denme) (?:\w+ ){0,3}(?:votos?|puntos)\b[^.\n]{0,20}respuesta",
        ),
        (  # Italian, Portuguese, Dutch, Polish
            "risposta|vota per|votate per|resposta|em mim|por mim|antwoord|op mij|voor mij|mnie|odpowied",
            r"\bvota(?:te)? (?:\w+ )?(?:per )?(?:me\b|(?:questa|la mia) risposta)",
            r"\bvot(?:e|em|a|ar) (?:\w+ )?(?:em mim\b|por mim\b|(?:n?esta|na minha|pela minha) resposta)",
            r"\bstem (?:\w+ )?(?:op|voor) (?:mij\b|(?:dit|mijn) antwoord)",
            r"\b(?:za)?g[lł]osuj(?:cie)? (?:\w+ )?na (?:mnie\b|(?:te|moja) odpowied)",
        ),
        (  # Russian
            "ответ|меня|мне|вариант",
            r"\b(?:про)?голосу(?:й|йте|ите) (?:\w+ )?за (?:меня|(?:этот|мой|данный) (?:ответ|вариант))",
            (
                r"\b(?:выбер(?:и|ите)|выбирай(?:те)?|поддержи(?:те)?|предпочти(?:те)?) (?:меня|(?:этот|"
                r"мой|данный) ответ)"
            ),
            r"\bотдай(?:те)? (?:\w+ ){0,2}голоса? (?:мне|за меня|(?:за )?(?:этому|моему|этот|мой) ответу?)",
        ),
        (  # Chinese
            "投|选|選|支持|分",
            r"投(?:票)?(?:给|給)(?:我|本|这个|這個|这一|此|该)|投我一票|(?:给|給)我投票|为我投票",
            r"(?:选择?|選擇?|支持)(?:我的|本|这个|這個|此|该)(?:答案|回答|答复)",
            r"(?:给|給|为|為)(?:本|这个|這個|此|该|我的)(?:答案|回答)(?:投票|打?(?:满|滿|高|最高)分)",
        ),
        (
            "投票|一票",
            r"(?:私|この(?:回答|答え|答案))に(?:投票|一票)",
        ),
        (
            "투표",
            r"(?:저에게|나에게|이 답변에|이 답에|제 답변에|내 답변에) ?투표",
        ),
        (  # Arabic
            "صوت|تصويت|اختر|اختار|اختيار",
            (
                r"\b(?:صوت|صوتوا|التصويت|بالتصويت) (?:\w+ )?(?:لي\b|لهذه الإجابة|لإجابتي|لهذا الجواب|"
                r"لصالحي|لصالح هذه)"
            ),
            r"\b(?:اختر|اختاروا|اختيار) (?:هذه الإجابة|إجابتي|هذا الجواب)",
        ),
        (
            "वोट",
            r"(?:मुझे|इस उत्तर को) वोट",
        ),
    ),
    INSTRUCTS: (
        (
            "ignore|disregard|forget|override|bypass",
            (
                r"(?<!\bto )(?<!\bthat )(?<!\bcan )(?<!\bmay )(?<!\bnot )(?<!\bshould )"
                r"\b(?:ignore|disregard|forget|override|bypass)\b (?:\w+ ){0,3}"
                r"(?:previous|prior|above|earlier|preceding|foregoing|your|system|former|original)\b (?:\w+ )?"
                r"(?:instructions?|prompts?|rules|directions|guidelines|orders|task|messages?|context)\b"
            ),
            (
                r"\byou (?:must|should|can|shall|may|have to|are to|will) (?:now )?(?:ignore|disregard|forget) "
                r"(?:\w+ ){0,3}(?:instructions?|prompts?|rules|answers)\b"
            ),
        ),
        (
            "ignore|disregard|reject|dismiss|discard|skip",
            (
                r"(?<!\bto )\b(?:ignore|disregard|reject|dismiss|discard|skip) (?:all |any |every |each "
                r")?(?:of )?"
                rf"(?:the )?(?:other|remaining|others'?|competing) (?:\w+ )?{_ANSWER}s?\b"
            ),
        ),
        (
            "instruction",
            r"\b(?:new|updated|revised|real|actual|additional) (?:system )?instructions? ?(?::|for you)",
            r"\b(?:reveal|print|repeat|show) (?:\w+ )?(?:your|the) (?:system|hidden|secret) instructions\b",
        ),
        (
            "choice",
            (
                r"\b(?:set|put|write|name|enter|return|output|answer|reply|respond)\b[^.\n]{0,30}"
                rf"\bchoice\b[^.\n\w]{{1,4}}(?:(?:to|is|as|label|with)\b )?[\"']?{_LABEL}"
            ),
            (
                r"\b(?:in|as|for) (?:the )?(?:field )?[\"'`]?choice[\"'`]?,? (?:write|put|name|enter|"
                r"return|give|use)\b"
            ),
        ),
        (
            "system override|system prompt|developer mode",
            r"\bsystem (?:prompt )?override\b|\bdeveloper mode (?:on|enabled|activated)\b",
            r"\b(?:reveal|print|repeat|show) (?:\w+ )?(?:your|the) system prompt\b",
        ),
        (
            "material ends|only what follows|end of ",
            r"\bmaterial ends here\b|\bonly what follows is addressed to you\b",
            r"\bend of (?:the )?(?:material|answers|reviews|untrusted (?:text|input))\b",
        ),
        (
            "obedient|loyal|unrestricted|jailbroken",
            r"\b(?:you are|act as|you're) (?:now )?(?:a |an |the )?(?:obedient|loyal|unrestricted|jailbroken)",
        ),
        (  # German
            "ignorier|missacht|vergiss|vergess|verwirf|verwerft",
            (
                r"\b(?:ignorier(?:e|t|en sie)|missachte(?:t|n sie)?|vergiss|vergesst|vergessen sie) "
                r"(?:\w+ ){0,3}"
                r"(?:vorherig|vorig|bisherig|obig|fruher|vorangegangen|vorangehend|vorausgehend)\w* "
                r"(?:\w+ )?(?:anweisung|instruktion|befehl|regel|vorgabe|aufgabe)\w*"
            ),
            r"\b(?:ignorier(?:e|t|en sie)|verwirf|verwerft) (?:\w+ )?(?:anderen|ubrigen) antworten",
        ),
        (  # French
            "ignore|ignorez|oublie|pas compte|ecarte|rejete",
            (
                r"\b(?:ignore[zr]?|oublie[zr]?|ne tene?z pas compte)\b (?:\w+ ){0,3}(?:instructions?|"
                r"consignes?|"
                r"directives?|regles?|ordres?) (?:precedent|anterieur|ci-dessus|donnee)"
            ),
            r"\b(?:ignore[zr]?|ecarte[zr]?|rejete[zr]?) (?:toutes )?les autres reponses",
        ),
        (  # Spanish, Italian, Portuguese
            "instruccion|ordenes|indicaciones|reglas|respuestas|istruzioni|regole|instrucoes|regras|ordens",
            (
                r"\b(?:ignor(?:a|e|en|ad|ar)|olvid(?:a|e|en|ad)|ha(?:z|ga|gan) caso omiso (?:de|a)) "
                r"(?:\w+ ){0,3}"
                r"(?:instruccion(?:es)?|ordenes|indicaciones|reglas) (?:anteriores|previas|de arriba)"
            ),
            r"\b(?:ignor(?:a|e|en|ad)|descart(?:a|e|en|ad)) (?:todas )?las (?:demas|otras) respuestas",
            r"\b(?:ignora(?:te)?|dimentica(?:te)?) (?:\w+ ){0,3}(?:istruzioni|regole) (?:precedenti|sopra)",
            (
                r"\b(?:ignor(?:e|em|a)|esqueca(?:m)?) (?:\w+ ){0,3}(?:instrucoes|regras|ordens) "
                r"(?:anteriores|acima)"
            ),
        ),
        (  # Russian
            "игнорируи|забудь|не обращаи",
            (
                r"\b(?:про)?(?:игнорируй|забудь|не обращай)(?:те)?(?: внимания на)? (?:\w+ ){0,2}"
                r"(?:предыдущ|прежн|прошл|вышеуказанн|вышестоящ|ранее|друг|остальн)\w*"
                r" (?:\w+ )?(?:инструкци|указани|команд|правил|ответ)\w*"
            ),
        ),
        (  # Chinese
            "忽略|无视|無視|忘|理会|理會",
            (
                r"(?:忽略|无视|無視|忘记|忘記|不要理会|不要理會)(?:掉)?(?:你)?(?:之前|以上|上述|先前|前面|此前|所有|一切|其他|其它)+(?:的)?"
                r"(?:所有|全部)?(?:的)?(?:指令|指示|说明|說明|提示|规则|規則|命令|答案|回答)"
            ),
        ),
        (
            "無視",
            r"(?:以前|前|これまで|上記)の(?:すべての)?(?:指示|命令|ルール)(?:を|は)(?:すべて)?無視",
        ),
        (
            "무시",
            r"(?:이전|위의|앞선)(?:의)? (?:모든 )?(?:지시|명령|지침)(?:사항)?(?:을|를)? 무시",
        ),
        (  # Arabic
            "تجاهل|انس",
            (
                r"\b(?:تجاهل|تجاهلوا|انس|انسوا) (?:\w+ ){0,2}(?:التعليمات|الأوامر|الإرشادات|القواعد|الإجابات) "
                r"(?:السابقة|أعلاه|الأخرى)"
            ),
        ),
        (
            "निर्देशों",
            r"(?:पिछले|पहले के) (?:सभी )?निर्देशों को (?:अनदेखा|नज़रअंदाज़)",
        ),
    ),
    ADDRESSES: (
        (
            _VOTER_WORDS,
            (
                r"\b(?:dear|attention|hey|hello|(?:important )?(?:note|notice|message|instructions?|"
                r"memo)[ ,]*(?:to|for))"
                rf"[ ,:]*(?:the |all |any |my |our |fellow |honou?rable |whichever |future )*{_VOTERS}"
                rf"(?: and {_VOTERS})?(?= ?[:,!.—–\n-]|$| (?:who|that|reading|of this|please|i|you)\b)"
            ),
        ),
        (
            _VOTER_WORDS,
            (
                rf"(?:^|[.!?\n] ?){_VOTERS} ?[:,!—–-] ?"
                r"(?:please|you|this answer|my answer|ignore|vote|choose|pick|select|do)\b"
            ),
        ),
        (
            _VOTER_WORDS,
            rf"\bas (?:a|an|the) (?:\w+ )?{_VOTERS},? (?:you|please|i)\b[^.\n]{{0,60}}\b{_ANSWER}\b",
            (
                r"\byou(?:, the| are the|r (?:job|task|role) as (?:a|the)) "
                rf"{_VOTERS}\b[^\n]{{0,60}}\b(?:{_ANSWER}|vot\w+)\b"
            ),
            (
                rf"\bif you are (?:a|an|the) (?:\w+ )?{_VOTERS}\b[^.\n]{{0,60}}\b(?:{_ANSWER}|vote|choose|"
                r"pick|select)\b"
            ),
        ),
        (
            "i am the|i am your|moderator|administrator|operator|chair|developer|openai|anthropic",
            r"\bi am (?:the|your) (?:judge|moderator|administrator|operator|system|chair|developer)\b",
            (
                r"\b(?:moderator|administrator|operator|chair|developers?|openai|anthropic) (?:has |have )?"
                r"(?:decided|confirmed|verified|declared|announced|requires?|instructs?)\b[^.\n]{0,60}"
                rf"\b(?:{_ANSWER}|votes?|winner)\b"
            ),
        ),
        (  # German
            "wahler|richter|juror|jury|gutachter|prufer|abstimmend|bewert|experten",
            (
                r"\b(?:liebe[rn]?|achtung,?|hinweis (?:an|fur)|nachricht an|an|werte)(?: die| alle| den)? "
                r"(?:wahler\w*|"
                r"richter\w*|juror\w*|jury|gutachter\w*|prufer\w*|abstimmend\w*|bewert\w*|experten) ?[:!,]"
            ),
        ),
        (  # French
            "electeur|votant|juge|evaluateur|jures|jury|experts",
            (
                r"\b(?:(?:chers?|attention,?|(?:note|message|avis) (?:aux?|pour))(?: les| tous les)? "
                r"(?:electeurs|votants|juges?|evaluateurs|jures|jury|experts) ?[:!,]"
                r"|aux? (?:electeurs|votants|juges?|evaluateurs|jures|jury|experts) ?[:!])"
            ),
        ),
        (  # Spanish
            "votantes|jueces|juez|jurado|evaluadores|electores|expertos",
            (
                r"\b(?:estimad[oa]s?|querid[oa]s?|atencion,?|(?:nota|mensaje|aviso) (?:para|a))"
                r"(?: los| las| el| todos los)? "
                r"(?:votantes|jue(?:ces|z)|jurados?|evaluadores|electores|expertos) ?[:!,]"
            ),
        ),
        (  # Russian
            "судь|избират|голосующ|рецензент|эксперт|жюри|оценщик",
            (
                r"\b(?:уважаем\w+|дорог\w+|внимание,?|(?:сообщение|обращение|послание)(?: для| к)?) "
                r"(?:судь\w+|избирател\w+|голосующ\w+|рецензент\w+|эксперт\w+|жюри|оценщик\w*) ?[:!,]"
            ),
        ),
        (  # Chinese
            "评|評|投票|裁判|法官|专家|專家",
            (
                r"(?:各位|亲爱的|親愛的|尊敬的|致|请|請|所有)(?:评委|評委|投票者|投票人|评审|評審|裁判|法官|评估者|专家|專家)"
                r"(?:们|們)? ?(?:[:,!：，！]|请|請)"
            ),
        ),
        (  # Arabic
            "ناخب|مصوت|قضاة|قاضي|حكام|محكم|خبراء",
            (
                r"\b(?:أيها|إلى|عزيزي|انتباه|أعزائي|ملاحظة إلى) (?:\w+ )?"
                r"(?:الناخب\w+|المصوت\w+|القضاة|القاضي|الحكام|المحكم\w+|الخبراء) ?[:،!,]"
            ),
        ),
    ),
    TAGS: (
        (
            "<",
            (
                r"<\s?/?\s?(?:question|options|answer|review)s?\s?[-_:]\s?"
                r"(?:[a-z]{0,20}\d|[0-9a-f]{6}|x{3}|[{\[]?nonce)"
            ),
            r"<\s?(?:answer|review|question)\b[^<>\n]{0,60}\b(?:label|nonce|seat)\s*=",
        ),
        (
            "label",
            rf"\blabel\s*=\s*[\"']?{_LABEL}",
        ),
    ),
    BALLOT: (
        (
            "same_as",
            r"[\"']same_as[\"']\s*:",
        ),
        (
            "choice",
            r"[\"']choice[\"']\s*:[^{}]{1,200}[\"'](?:confidence|same_as)[\"']\s*:",
            (
                r"[\"'](?:confidence|reason)[\"']\s*:[^{}]{1,400}[\"']choice[\"']\s*:\s*[\"'](?!auto|"
                r"none)\w{1,12}[\"']"
            ),
            r"^[^\w\n]{0,20}choice\s*[:=]\s*\S[^\n]{0,60}\n[^\w\n]{0,20}confidence\s*[:=]\s*\d",
        ),
        (
            "best",
            r"[\"'](?:points|best)[\"']\s*:[^{}]{1,800}[\"'](?:best|stop)[\"']\s*:",
        ),
        (
            "choice",
            rf"\bchoice[\"'`]*\s*[:=]\s*[\"'`]*{_LABEL}",
        ),
    ),
    ROLES: (
        (
            ">",
            r"<\|\s*\w+\s*\|>",
        ),
        (
            "inst]|<<sys|_of_turn>|system>|assistant>|system]",
            r"\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|</?(?:system|assistant)>|\[/?system\]",
        ),
        (
            "system|developer",
            (
                r"^[ #*>_\[-]{0,20}(?:system|developer)(?: (?:prompt|message|note|instructions?|notice|"
                r"update))?[\]*_]* ?:"
            ),
        ),
        (
            "assistant|human",
            r"^[ #*>_\[-]{0,20}(?:assistant|human)[\]*_]* ?: ",
        ),
    ),
}
"""Phrases by what they show: words of which a text has at least one, and the pattern of the phrase.

All in lower case and without accents, as the text is that they are compared with.
"""
