"""Words by which `languages.py` tells languages written in Latin letters from English.

Stop words, and words of requests (write, explain, how, please) and greetings. By hand: a list made
from texts would hold names. Languages whose words are mostly the same share a row.
"""

# words in no other language below, so "in", "on", "is", "do", "me", "was" and "a" are not
ENGLISH = """
    about add advise after again all analyse analyze and answer anything are aren ask because been
    before being better both brainstorm but calculate can cannot check choose classify compose
    convert correct could create day def describe design develop did didn discuss does doesn doing
    don down draft each edit evaluate ever every everything example examples explain extract feel
    few fill find first fix following from function generate get gets getting give given go goes
    going gonna good got great hasn have haven having hello help hey his how however identify idk if
    improve include into isn it its just keep know last let life like lol look make makes many maybe
    mean more much must my need never new not nothing now of often one only or other our out own
    paraphrase people please pretend print probably prove provide put question read really recommend
    rephrase replace reply return rewrite right said same say says see select sentence she should
    shouldn show simplify since some someone something still story such suggest summarise summarize
    sure take talk tell than thanks that the their them then there these they thing things think
    this those through time today together too topic translate try turn understand until up ur us
    used verify very void wanna want wants wasn way we well went were weren what whats when where
    whether which while who whom whose why will with within without won word words work world would
    wouldn write year years yes yet you your yours yourself
"""
# words, names and short forms of English that are words elsewhere too: they say nothing
SHARED = """
    ab adios af ag ah ai aku also am amigo amigos an any appliqué ar as at ba bat bella ben bet bio
    bok bom bonjour bravo brûlée bus ca cad café cafés care cat change chose ci ciao cine class
    cliché clichés co code com come comment compare complete con const continue crème crêpe cu dan
    danke den die dir do doe door dove due décor déjà ed eg em en end entrée exposé face fare fast
    favor façade fi fiancé fiancée figure fin for form fête ge gracias grad grande grazie ha had
    hallo halo han has hat he her here hi him ho hum im imagine import in ini is jalapeño jam jest
    kind kit kto leg li line list long lot ma made main man mate matinée may me med men merci met
    min mine mint mis mit mo mon most mucho name naïve no non nor noun née oh ok om on op os over pa
    par pas per pet phrase piñata plan play plus pot pre pro protégé pub public quite resume rosé
    résumé salut sam sang sat sauté se sent ser set señor señorita sig sin sing sit so solve son
    song sort soufflé static sur são ta tab tag tak tam ten tend test text ti til till to ton tone
    tot touché tschüss ty u um under use ut vale van var ve via voilà wa war was wo ya à émigré
"""
OF_LANGUAGE = {
    "Spanish": """
        de la el que los las por una un del para como más pero sus le este esta esto si sí porque
        cuando muy sobre también hasta hay dónde quién desde todo todos nos durante uno ni contra
        otros ese eso ante ellos unos mi tu tú él qué cuál cómo cuándo cuántos cuántas cuánto cuánta
        cual cuales cuáles estás está están estoy eres soy somos tienes tengo tiene tienen puedes
        puedo puede pueden quiero quieres hola hacer haces hace haz dime dame escribe escribir
        explica explique explícame traduce crea genera bien mejor ahora nombre años vida dos tres
        fue era había gusta te lo al hoy siguiente ejemplo resumen lista necesito ayuda ayúdame
        habla hablas buenos días nada algo usted ustedes vamos aquí vez veces nunca alguna algunas
        algún alguien bueno buena esa esas esos mismo misma nuevo cosas debe deben debería podría
        podrías tal mucha muchas muchos poema cuento historia canción carta ejemplos sido tener
        verdadero sé recomienda corrige enumera menciona haga cada así entonces cuéntame chiste
        aprender tarea errores frase texto mundo gente
    """,
    "French": """
        de la le les et des un une du que qui dans ce il elle au aux je tu nous vous ils elles mais
        ou où est sont suis es êtes être avoir avez avec pour cette ces sa ses mes tes leur leurs
        votre vos notre nos comme si tout tous fait faire quoi quel quelle quels quelles pourquoi
        quand combien peux peut pouvez puis veux voulez écris écrivez écrire explique expliquez
        expliquer donne donnez moi traduis traduisez rédige rédigez crée très bien même autre encore
        sans été était qu aujourd hui ça cela ceci dis dites parle fais faites trouve texte suivant
        suivante liste aimes aime allez vas monde chez entre après avant jamais toujours rien quelqu
        va io depuis doit dois peuvent pourrais pourrait faut celui celle ceux aucun aucune chaque
        toute toutes vers afin donc ainsi poème histoire lettre chanson exemple exemples résume
        résumez résumer corrige décris décrivez propose proposez raconte raconter traduire écrit
        deux trois ici cent mieux petit mot mots capitale besoin aide aider fautes apprendre blague
        fonctionne meilleur meilleure différence signifie idées recette
    """,
    "German": """
        der das und ist ich von nicht ein eine einen einem einer eines zu dem des sich auf für auch
        es sie wie wir du er ihr als aus bei nach noch nur oder aber wenn kann kannst können
        könntest könnten soll sollte muss müssen wird werden wurde sind bist habe hast haben waren
        dass daß diese dieser dieses mein meine meinen dein deine deinen mir mich dich uns euch
        ihnen warum wieso wer wann welche welcher welches wieviel viel viele mehr sehr schon immer
        über unter zwischen durch ohne gegen bitte schreibe schreib erkläre erklär nenne gib mache
        mach erstelle übersetze beschreibe fasse zusammen sag sage machst geht gibt gehst weißt
        möchte möchtest heißt heute etwas nichts kein keine keinen zum zur vom beim bis hier dann
        jetzt doch folgenden folgende satz wörter beispiel ja nein gut wollen willst leben welt mag
        magst guten gern gerne einige jeder jede jedes alle alles ihre ihren ihrem seine seinen wäre
        würde würdest hätte dürfen darf müsste erzähle erzähl verfasse formuliere gedicht geschichte
        brief beispiele zwei drei vier fünf wörtern sätze liste kurz kurze kurzen deutsch deutsche
        englisch frage antwort zeit jahr jahre wurden deren dessen sowie bereits ganz hauptstadt
        frankreich deutschland erfunden brauche hilfe witz lerne lernen funktioniert rezept
        englische englischen wichtigsten unterschied bedeutet erfand heisst fuer ueber erklaere
        geburtstag
    """,
    "Italian": """
        di che è la il un una sono si le gli lo da del della dei delle dello nel nella nei al alla
        alle dal dalla sul sulla più anche cosa perché quando chi quale quali quanto quanti quanta
        quante mi vi hai hanno sei siamo siete era essere avere fai fa puoi può posso voglio vuoi
        questo questa questi queste quello quella mio mia tuo tua suo sua molto bene scrivi scrivere
        spiega spiegami dimmi dammi traduci crea elenca riassumi tutto tutti sempre mai senza anni
        vita oggi ora già ancora così dopo prima fra tra poi stai sta seguente testo esempio piace
        cos uno tre mondo vorrei potresti io sto modo volta volte stesso stessa senso certo adesso
        molti molte nessun qualche ogni ad deve devi dovrebbe potrei poesia storia lettera canzone
        esempi elenco spiegare riassumere raccontami descrivi suggerisci correggi traduzione breve
        parole stato stata tuoi miei sì capitale aiuto bisogno aiutami barzelletta prepara imparare
        errori significa ricetta migliore differenza funziona idee qual frase gente
    """,
    "Portuguese": """
        de que não da uma para na por mais dos das como mas ao ele ela foi é está você vocês eu seu
        sua seus suas isso isto esse essa este esta ter tem têm meu minha também já pelo pela até
        quando muito muitos onde quem quais porque porquê quanto quantos quantas pode posso podes
        quero quer fazer faz faça escreva escreve explique explica diga dê crie traduza liste resuma
        olá obrigado obrigada bem sem sobre depois mesmo aos nos há era estou estás estão tudo nada
        hoje agora então entre só aqui gosta seguinte exemplo lista preciso ajuda ajude vida anos
        dois três oi sim sou vou gosto meus minhas teu tua dizer conta conte deve devem poderia
        podem mesma mesmos cada outro outros outra alguns algumas algum nunca sempre faço explicar
        escrever poema história carta canção exemplos palavras descreva sugira corrija cria resumo
        nós eles elas pois ainda assim num numa descobriu piada ajudar ideias aprender inglês
        receita melhor diferença significa funciona seguir resumir criança qual frase texto mundo
        gente
    """,
    "Catalan": """
        de la el els les que un una amb és del al dels als més però què qui quin quina quins quines
        perquè quan són sóc ets té tens pots puc vull fer escriu explica digues dona tradueix hola
        gràcies molt també aquest aquesta això seva seu meu meva teva
    """,
    "Romanian": """
        de și si în la pe un să sa nu este ce mai din că pentru sunt ești eşti esti cum când cand
        unde câți câte cât al ale lui ei poți poti vreau scrie explică explica spune dă traduce bună
        buna mulțumesc foarte bine despre după fără între acest această acesta aceasta îmi imi te mă
        îți iti fost avea faci dacă daca sau dar poezie poveste scrisoare listă exemplu exemple
        scurt scurtă cuvinte propoziție toate totul mereu niciodată acum aici meu mea tău său doi
        trei cinci noi voi ele fie unui unei unor creează rezumă enumeră descrie recomandă mi
        capitala invat copil idei învăț funcționează înseamnă diferența engleză
    """,
    "Dutch": """
        de het een ik je niet zijn er voor aan te ook als maar hem nog naar heb heeft hebt hebben
        deze dit wat wie waar waarom wanneer hoe welke hoeveel kun kunt kunnen zou moet worden wordt
        werd bij uit mijn jouw jij hij zij wij ons onze jullie geen veel meer zeer schrijf geef
        vertel maak vertaal noem gaat gaan bent doen graag goed heel iets niets altijd tussen zonder
        alsjeblieft bedankt iemand niemand welk wil wilt jou hou weet ken liever ooit jezelf mijzelf
        alle alles andere beschrijf bedenk herschrijf samenvatting voorbeeld voorbeelden gedicht
        verhaal brief zin zinnen woorden korte lijst moeten mag laat zich haar hun zo nu omdat
        terwijl tegen onder twee drie vijf bestaat nieuwe hoofdstad hulp nodig grap leer leren
        uitgevonden volgende engels werkt betekent verschil recept beste ideeën samen kan dat dag
    """,
    "Swedish": """
        och att det som på är av för inte ett hon har jag du vi de vad hur varför när vem vilken
        vilket vilka ska skulle från så än eller där här din ditt dina mitt mina mig dig skriv
        förklara berätta gör göra översätt hej tack mycket bra också efter utan mellan vill finns
        många några något alla år idag heter mår måste blir blev bli två tre fem dikt berättelse
        brev lista exempel kort ord mening beskriv sammanfatta sitt sina deras vara varit kommer
        kunde ville alltid aldrig bara nu då samt genom huvudstaden hjälp behöver skämt lär engelska
        fungerar betyder skillnaden följande idéer barn kan dag
    """,
    "Danish and Norwegian": """
        og det som på er av ikke et ett hun har jeg du vi de hvad hva hvordan hvorfor hvornår når
        hvem hvilken hvilket hvilke skal skulle fra seg så enn eller hvor din ditt dit mig meg dig
        deg skriv forklar fortæl fortell gør gjør gøre gjøre oversæt oversett hej hei takk meget mye
        veldig godt også efter etter uden uten mellem mellom mange noget noe nogle noen alle år idag
        giv gi hedder heter vil være ikkje ein kva må ble blev bli blive tre fem dikt digt historie
        brev liste eksempel eksempler ord setning sætning beskriv opsummer oppsummer sitt deres vært
        kommer kunne ville altid alltid aldri aldrig bare nå nu da samt gennem gjennom findes finnes
        hadde havde kort hovedstaden hjælp hjelp behøver trenger lærer engelsk fungerer virker
        betyder betyr forskellen forskjellen følgende ideer barn kan dag
    """,
    "Finnish": """
        ja ei että oli ole mitä mikä miten miksi milloin missä kuka kuinka paljon minä sinä hän te
        tämä nämä joka mutta kun niin myös vain kuin voi voitko olen olet ovat oletko minun sinun
        kirjoita selitä kerro anna käännä hei kiitos hyvin hyvää paras kanssa sitten jos tai sekä
        mitkä onko voisitko eivät olla tuo nuo jotka hänen heidän meidän runo tarina kirje lista
        esimerkki lyhyt suomeksi englanniksi luettele kuvaile tee ehdota tiivistä mistä montako entä
        jonka enemmän pääkaupunki lapselle kolme opin oppia lause
    """,
    "Polish": """
        na nie się że jak za od po ale czy dla przez przy jego jej ich są był była było być mam masz
        może możesz mogę mi mnie ciebie ja ona tego tym te które który która jaki jaka jakie kiedy
        gdzie dlaczego czemu ile napisz wyjaśnij opowiedz podaj przetłumacz cześć dziękuję proszę
        dzień dobry bardzo dobrze także oraz bez między więcej tylko jeszcze już lub albo jeśli
        stwórz zrób opisz wymień został została nazwa mogą można musi należy opowiadanie wiersz
        lista przykład przykłady krótki krótkie słowa zdanie jestem jesteś mamy bardziej wszystko
        wszystkie nigdy zawsze teraz tutaj swój swoje moje mój moja twój twoja podsumuj popraw dwa
        trzy pięć polski polsku stolica pomysły nauczyć dowcip działa znaczy różnica angielski
        dziecku
    """,
    "Czech and Slovak": """
        na je že jak za od po ale nebo při jeho její jsou jsem jsi jsme byl byla bylo být má máš mám
        může můžeš můžu mi mě tebe já ona toho tím které který která jaký jaká jaké kdo kdy kde proč
        kolik napiš vysvětli řekni dej přelož ahoj děkuji prosím dobrý velmi dobře také bez mezi
        více jen ještě už když aby čo ako prečo kedy koľko som si sme sú nie alebo vysvetli povedz
        ďakujem aký aká aké ktorý ktorá môžeš veľmi nebyl nebyla není musí mohou báseň příběh dopis
        seznam příklad krátký krátká slova věta máme vše vždy nikdy teď tady svůj moje můj tvůj shrň
        popiš vyjmenuj navrhni dva tři pět podle příběhu krátku česky napíš vytvor opíš ktoré aj len
        ešte lebo sa básničku město naučit nápady větu angličtiny funguje znamená rozdíl
    """,
    "Croatian, Serbian, Slovene": """
        na je da za od su koji koja koje što šta sta kako zašto zasto gdje gde kada kad tko ko
        koliko si smo ste nije nisam ali ili iz sa po kao biti bila može mozes možeš mogu napiši
        napisi objasni reci daj prevedi zdravo hvala molim dobro vrlo takođe bez između više samo
        još već ako ovaj ova ovo taj kaj kdo kje kdaj zakaj tudi ni ne sem lahko napišite razloži
        povej prosim lepa neće mora treba pjesmu pesmu priču popis primjer primer kratku kratki
        riječi reči rečenicu sve svi uvek uvijek nikad sada ovde ovdje tamo svoj moje moj tvoj opiši
        dva tri jeste bilo koju pesem zgodbo kratek kratko ima nema imate vaš njihov glavni naučiti
        radi znači razlika engleski prevedite djetetu detetu mesto
    """,
    "Hungarian": """
        az és hogy nem egy ez meg de mi ki hol mikor miért hogyan mennyi hány melyik milyen csak már
        még el volt lesz én te ő ők vagy vagyok vagyunk vannak akkor írj írjon magyarázd mondd adj
        fordítsd szia köszönöm kérlek kérem jó nagyon minden kell lehet tudsz tudom szeretnék
        szeretném ezt azt ennek annak nekem neked nincs között után nélkül verset vers történetet
        mesét levelet lista példa példát rövid mondat szó magyarul angolul sorolj sorold írd foglald
        készíts ajánlj ami amely ezek azok volna voltak nagy kis két három öt mindig soha itt ott
        saját legyen fővárosa működik jelent angolra
    """,
    "Turkish": """
        bir bu ne için ile mi mı mu mü de da çok daha olan olarak yok gibi kadar ama nasıl neden
        niçin nerede nereye kim hangi kaç sen biz siz onlar bana sana beni seni benim senin bunu şu
        değil mısın misin musun müsün yaz yazın açıkla anlat söyle ver çevir merhaba selam
        teşekkürler teşekkür lütfen iyi güzel sonra önce bugün şey nedir kimdir olur oldu istiyorum
        misiniz mısınız hakkında arasında yap evet hayır belki sadece herhangi gerçekten neler neyi
        şiir hikaye mektup liste örnek örnekler kısa kelime cümle türkçe özetle listele yazar edilir
        etmek eden olması yapılır oluştur öner anlatır miyim değilim nasılsın iyiyim yapay zeka tüm
        birkaç üç beş iki yani bile başkenti neresidir öğrenilir fikri cümleyi çalışır demek fark
    """,
    "Indonesian and Malay": """
        yang di itu dengan untuk tidak dari dalam akan pada juga saya ke karena bisa ada adalah kamu
        anda kami kita mereka dia apa siapa kapan dimana mana mengapa kenapa bagaimana berapa
        tuliskan tulis jelaskan buatkan buat berikan sebutkan terjemahkan ceritakan hai terima kasih
        tolong baik sangat lebih sudah belum atau tetapi tapi seperti oleh sebagai orang hari bukan
        apakah tentang antara boleh ialah kepada saja dapat selamat kabar semua secara tanpa bagi
        jenis bisakah dapatkah maukah puisi cerita surat daftar contoh singkat kalimat kata bahasa
        buatlah tuliskanlah carikan ringkas beri tahu tentangmu telah harus menjadi membuat cara
        lain setiap banyak hanya ibu kota bapak sila kerana pelbagai belajar tiga inggris artinya
        perbedaan bekerja ibukota
    """,
    "Vietnamese": """
        và là của có không cho một những được trong các với này đó khi từ đã sẽ người tôi bạn anh
        chị gì nào sao đâu thế như về để cũng nhưng hay hãy viết giải thích dịch kể tại vì bao nhiêu
        xin chào cảm ơn rất tốt làm nói biết tiếng việt năm hơn nhất la gi cua khong ban toi lam
        viet bài thơ câu chuyện thư danh sách ví dụ ngắn điển giúp nữa lại ra vào lên xuống mình họ
        chúng phải cần muốn
    """,
    "Tagalog": """
        ang ng mga sa na ay ko ka ako siya ikaw tayo kami sila ito iyan iyon hindi po ano sino saan
        kailan bakit paano ilan gaano kung kapag dahil para mayroon wala ni si kay nang din rin lang
        naman isulat ipaliwanag salamat kumusta magandang araw sumulat tungkol kabisera tula
    """,
    "Swahili": """
        na kwa ni katika la za kuwa hii hiyo huyo sana pia lakini au kama nini nani lini wapi vipi
        ngapi mimi wewe yeye sisi ninyi wao yangu yako yake andika eleza tafadhali asante habari
        jambo jinsi gani kuhusu shairi nieleze mkuu mji
    """,
    "Estonian": """
        ja ei et sa te nad kes kus millal miks kuidas palju kas oli olen oled kui aga ka siis nii
        või kirjuta selgita ütle tõlgi tere aitäh palun väga hea minu sinu tema pole saab tuleb
        luuletus lugu kiri nimekiri näide lühike sõna lause milline millised kelle olema oma veel
        juba
    """,
    "Lithuanian and Latvian": """
        ir yra kad tai su iš į kaip kas kur kada kodėl kiek aš tu jis ji mes jūs parašyk paaiškink
        pasakyk labas ačiū prašau labai gerai taip ne nėra apie kuris kuri un tas ka kā kāpēc cik
        vai es mēs viņš uz uzraksti paskaidro sveiki paldies lūdzu ļoti labi nav kurš kura buvo gali
        reikia eilėraštį istoriją trumpą žodžiai sakinys nebuvo jābūt dzejoli stāstu īsu vārdi
        teikums tiek tika
    """,
    "Hindi in Latin letters": """
        hai hain kya kaise kyun kyon nahi nahin mujhe mera meri mere aap tum kab kahan kaun kitna
        kitne aur lekin bahut accha acha batao likho karo karna karte raha rahe rahi hoon ka ki ke
        ko mein tha thi theek sab bhi yaar kese kaisi mai tera tere teri tumhara apna koi kuch
        kyunki agar jab phir matlab samjhao bataiye kijiye dijiye liye wala
    """,
    "Icelandic": """
        og er ekki að það sem með fyrir hvað hver hvernig hvers vegna hvenær hvar ég þú hann hún við
        þið þeir skrifaðu útskýrðu segðu mér takk halló mjög góðan daginn hefur verið eða frá
    """,
    "Afrikaans": """
        nie het wat hoe waarom wanneer ek jy hy sy ons julle hulle vir te aan ook maar uit skryf
        verduidelik gee vertel asseblief dankie baie goeie moet daar hierdie kan dat
    """,
    "Albanian": """
        dhe është në të për nuk që një si çfarë pse kur ku kush sa unë ajo ne ju shkruaj shpjego më
        thuaj faleminderit përshëndetje shumë mirë nga janë duhet ose ka
    """,
    "Irish and Welsh": """
        agus tá níl na sé sí conas cén cathain mé tú scríobh inis dom raibh maith yn mae nid ddim
        sut beth pam pryd ble pwy ysgrifennwch rwy gan gyda oes dweud
    """,
    "Basque": """
        eta da ez du zer nola zergatik noiz zein dira duzu nuen idatzi azaldu esan mesedez kaixo
        eskerrik asko baina ere egin dut izan
    """,
    "Azerbaijani and Uzbek": """
        və bir bu nə üçün ilə necə niyə harada kim mən sən yaz izah et salam zəhmət olmasa yox olan
        deyil va bilan uchun nima qanday qachon qayerda sen yozing tushuntiring salom iltimos emas
        kerak haqida
    """,
    "Yoruba, Hausa, Igbo, Zulu": """
        ni bawo kini iwo emi jẹ ṣe ọ ọjọ nko kuma ne da yaya menene mai gida ina kwana ka gị bụ na
        nke kedu gini ngiyabonga yini kanjani ngi uma sawubona
    """,
    "Latin": """
        et est cum sed quod quae quid enim sunt esse aut nec ergo atque autem quam
    """,
    "Esperanto": """
        kaj la estas ne vi mi kio kiel kial kie kiam tio ĉu mia por kun skribu
    """,
}
